// The harness itself: a client of memory_server.mjs, which tells how many updates it has, and reconnects after 100 ms.
import WebSocket from "ws";

export function follow(port, task, onUpdate) {
  let count = 0;
  let isReady;
  const ready = new Promise((resolve) => (isReady = resolve));
  const connect = () => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}`);
    socket.on("open", () => socket.send(JSON.stringify({ task, count })));
    socket.on("message", (data) => {
      const text = data.toString();
      if (text === "ready") return isReady();
      count++;
      onUpdate(text);
    });
    socket.on("error", () => {});
    socket.on("close", () => setTimeout(connect, 100));
  };
  connect();
  return { ready };
}
