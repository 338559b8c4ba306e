// Follows task "t" of a relay with the `ws` package, prints all that happens as a line of JSON each, and leaves when the
// task is done. Arguments: the relay's URL, and "deflate" or "plain".
import WebSocket from "ws";

const [url, compression] = process.argv.slice(2);
const tell = (report) => console.log(JSON.stringify(report));
// A threshold of 0 compresses short messages too; the default is to send those as they are.
const socket = new WebSocket(url, { perMessageDeflate: compression === "deflate" && { threshold: 0 } });
socket.on("open", () => {
  tell({ event: "open", extensions: socket.extensions });
  socket.send(JSON.stringify({ type: "subscribe", task_id: "t" }));
  socket.ping("are you there");
});
socket.on("pong", (payload) => tell({ event: "pong", payload: payload.toString() }));
socket.on("message", (message) => {
  const text = message.toString();
  tell({ event: "message", text });
  if (JSON.parse(text).data?.status === "completed") socket.close(1000);
});
socket.on("error", (error) => tell({ event: "error", message: String(error) }));
// ws reports 1006 when there was no closing handshake.
socket.on("close", (code) => tell({ event: "closed", code, clean: code !== 1006 }));
