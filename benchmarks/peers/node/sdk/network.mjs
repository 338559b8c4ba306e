// The network between a client and its server: TCP, forwarded through a port of this process, that can fail.
import { connect, createServer } from "node:net";

/** Connections to this port go on to one of the servers that accept connections, in turns. */
export class Network {
  #ports;
  #next = 0;
  #pairs = new Set();
  /** When WebSockets were opened, in milliseconds, by the server's port. */
  opened = new Map();
  /** Requests that a server refused because there were too many. */
  refused = 0;
  /** null: it works; "silent": nothing gets through; "refused": new connections are reset. */
  #failure = null;
  #server = createServer({ noDelay: true }, (client) => this.#forward(client));

  /** @param ports of the servers */
  constructor(ports) {
    this.#ports = [...ports];
  }

  /** Listen; returns the port. */
  async listen() {
    await new Promise((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen({ host: "127.0.0.1", port: 0, backlog: 4096 }, resolve);
    });
    return this.#server.address().port;
  }

  /** From now on connections go to these servers. Those that there are stay. */
  use(ports) {
    this.#ports = [...ports];
  }

  /** Fail for so many milliseconds. What was connected is lost: at once, or after a silence. */
  async fail(isSilent, milliseconds) {
    this.#failure = isSilent ? "silent" : "refused";
    if (isSilent) for (const pair of this.#pairs) pair.forEach((socket) => socket.pause().unpipe());
    else this.#reset();
    await new Promise((resolve) => setTimeout(resolve, milliseconds));
    this.#reset();
    this.#failure = null;
  }

  close() {
    this.#reset();
    this.#server.close();
  }

  #reset() {
    for (const pair of this.#pairs) pair.forEach((socket) => socket.resetAndDestroy());
    this.#pairs.clear();
  }

  #count(port, answer) {
    if (answer.startsWith("HTTP/1.1 503")) this.refused++;
    if (!answer.startsWith("HTTP/1.1 101")) return;
    if (!this.opened.has(port)) this.opened.set(port, []);
    this.opened.get(port).push(performance.now());
  }

  #forward(client) {
    client.on("error", () => {});
    if (this.#failure === "refused" || this.#ports.length === 0) return client.resetAndDestroy();
    if (this.#failure === "silent") {
      this.#pairs.add([client]);
      return client.pause();
    }
    const port = this.#ports[this.#next++ % this.#ports.length];
    const server = connect({ host: "127.0.0.1", port, noDelay: true });
    const pair = [client, server];
    this.#pairs.add(pair);
    // No reset here: of a socket that is about to end, Node 20 would keep the file for good.
    server.on("error", () => client.destroy());
    pair.forEach((socket) => socket.on("close", () => {
      this.#pairs.delete(pair);
      pair.forEach((other) => other.destroy());
    }));
    client.pipe(server).pipe(client);
    server.once("data", (answer) => this.#count(port, answer.toString("latin1", 0, 16)));
  }
}
