// socket.io with connection state recovery: without an adapter, as its documentation begins, or with that of Redis streams.
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-streams-adapter";
import { Redis } from "ioredis";
import { Server } from "socket.io";

const [port, redisUrl, adapter] = process.argv.slice(2);
const redis = new Redis(redisUrl);
const http = createServer();
const server = new Server(http, {
  transports: ["websocket"],
  serveClient: false,
  connectionStateRecovery: { maxDisconnectionDuration: 120_000, skipMiddlewares: true },
  ...(adapter === "streams" ? { adapter: createAdapter(redis.duplicate(), { maxLen: 100_000 }) } : {}),
});
server.on("connection", (socket) => {
  socket.on("subscribe", async (task) => {
    await socket.join(task);
    socket.emit("subscribed", task);
  });
});

// Updates come as to the other servers here; of several servers only one is to pass each on to all.
const updates = redis.duplicate();
updates.on("pmessage", async (_pattern, channel, payload) => {
  if (adapter !== "streams" || (await redis.set(`once:${payload}`, port, "EX", 60, "NX")) === "OK") {
    server.to(channel.slice("task:".length)).emit("task_update", payload);
  }
});
await updates.psubscribe("task:*");
http.listen({ host: "127.0.0.1", port: Number(port), backlog: 4096 });
