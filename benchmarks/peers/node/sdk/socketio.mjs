// The package socket.io-client. A connection whose state the server could not recover joins its room again.
import { io } from "socket.io-client";

export function follow(port, task, onUpdate) {
  const socket = io(`http://127.0.0.1:${port}`, { transports: ["websocket"], forceNew: true });
  const ready = new Promise((resolve) => socket.once("subscribed", resolve));
  socket.on("task_update", onUpdate);
  socket.on("connect", () => {
    if (!socket.recovered) socket.emit("subscribe", task);
  });
  return { ready };
}
