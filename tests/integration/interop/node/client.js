// Follows tasks "t" and "u" and the general updates with clients/js, and prints all that happens as a line of JSON each. Ends when
// its input does. Arguments: the relay's URL, and "ws" or "built-in", the WebSocket to use.
import { RelayClient } from "../../../../relay/server/static/relay-client.js";

const [url, kind] = process.argv.slice(2);
const tell = (report) => console.log(JSON.stringify(report));
const WebSocket = kind === "ws" ? (await import("ws")).default : globalThis.WebSocket;
const relay = new RelayClient(url, {
  WebSocket,
  retryBase: 100,
  retryCap: 300,
  onConnection: (change) => tell({ event: "connection", ...change }),
  onError: (error) => tell({ event: "error", message: error.message }),
});
relay.general().onUpdate((update) => tell({ event: "update", ...update }));
for (const task of ["u", "t"]) relay.task(task).onUpdate((update) => tell({ event: "update", ...update }));
process.stdin.on("end", () => {
  tell({ event: "positions", ...relay.positions });
  relay.close(); // nothing else keeps Node alive
});
process.stdin.resume();
