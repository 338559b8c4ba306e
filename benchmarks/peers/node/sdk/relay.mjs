// Relay's own client.
import WebSocket from "ws";

import { RelayClient } from "../../../../relay/server/static/relay-client.js";

export function follow(port, task, onUpdate) {
  const relay = new RelayClient(`http://127.0.0.1:${port}`, { WebSocket, onError: (error) => console.error(error) });
  const handle = relay.task(task);
  handle.onUpdate((update) => update.isState || onUpdate(update.data));
  const ready = new Promise((resolve) => {
    const stop = handle.subscribe((state) => {
      if (state.connection === "live") {
        resolve();
        stop();
      }
    });
  });
  return { ready };
}
