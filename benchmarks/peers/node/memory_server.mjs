// Keeps every update in memory and answers from there: what the harness can measure at best. It has no limits and no use.
import { Redis } from "ioredis";
import { WebSocketServer } from "ws";

const [port, redisUrl] = process.argv.slice(2);
const histories = new Map();
const watchers = new Map();
const get = (map, key, make) => map.get(key) ?? map.set(key, make()).get(key);

const redis = new Redis(redisUrl);
redis.on("pmessage", (_pattern, channel, payload) => {
  const task = channel.slice("task:".length);
  get(histories, task, () => []).push(payload);
  for (const socket of watchers.get(task) ?? []) socket.send(payload);
});
await redis.psubscribe("task:*");

new WebSocketServer({ host: "127.0.0.1", port: Number(port), backlog: 4096, perMessageDeflate: false }).on("connection", (socket) => {
  socket.on("error", () => {});
  socket.on("message", (data) => {
    const { task, count } = JSON.parse(data.toString());
    socket.send("ready");
    for (const payload of (histories.get(task) ?? []).slice(count)) socket.send(payload);
    const sockets = get(watchers, task, () => new Set());
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
  });
});
