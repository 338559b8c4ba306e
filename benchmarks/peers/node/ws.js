// The `ws` package: a message from Redis is sent to every client of its task as it comes.
import { Redis } from "ioredis";
import { WebSocketServer } from "ws";

const [port, redisUrl] = process.argv.slice(2);
const prefix = "task:";
const rooms = new Map();

const server = new WebSocketServer({ host: "127.0.0.1", port: Number(port), backlog: 4096, path: "/ws/tasks" });
server.on("connection", (client) => {
  const followed = new Set();
  client.on("message", (text) => {
    const request = JSON.parse(text);
    if (request.type !== "subscribe") return;
    const task = request.task_id;
    if (!rooms.has(task)) rooms.set(task, new Set());
    rooms.get(task).add(client);
    followed.add(task);
    client.send(JSON.stringify({ type: "subscribed", task_id: task }));
  });
  client.on("close", () => followed.forEach((task) => rooms.get(task).delete(client)));
  client.on("error", () => {}); // "close" follows
});

const redis = new Redis(redisUrl);
redis.on("pmessageBuffer", (_, channel, update) => {
  const room = rooms.get(channel.toString().slice(prefix.length));
  if (room) for (const client of room) client.send(update, { binary: false });
});
await redis.psubscribe(`${prefix}*`);
