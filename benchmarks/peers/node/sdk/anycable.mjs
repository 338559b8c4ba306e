// The package @anycable/core, with the protocol that resumes streams.
import { createCable } from "@anycable/core";
import WebSocket from "ws";

export function follow(port, task, onUpdate) {
  const cable = createCable(`ws://127.0.0.1:${port}/cable`, {
    protocol: "actioncable-v1-ext-json",
    websocketImplementation: WebSocket,
    logLevel: "error",
  });
  const channel = cable.streamFrom(task);
  channel.on("message", onUpdate);
  return { ready: channel.ensureSubscribed() };
}
