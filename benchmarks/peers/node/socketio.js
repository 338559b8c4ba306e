// socket.io with its Redis adapter: clients join the room of their task, emitters publish to rooms.
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { Redis } from "ioredis";
import { Server } from "socket.io";

const [port, redisUrl] = process.argv.slice(2);
const redis = new Redis(redisUrl);

const http = createServer();
const server = new Server(http, {
  adapter: createAdapter(redis, redis.duplicate()),
  transports: ["websocket"],
  serveClient: false,
});
server.on("connection", (socket) => {
  socket.on("subscribe", async (task) => {
    await socket.join(task);
    socket.emit("subscribed", task);
  });
});
http.listen({ host: "127.0.0.1", port: Number(port), backlog: 4096 });
