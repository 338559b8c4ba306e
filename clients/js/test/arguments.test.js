// Callbacks, closing, and arguments that are wrong.
import assert from "node:assert/strict";
import { test } from "node:test";

import { RelayClient } from "../dist/index.js";
import { subscribed, update, play, opened, soon } from "./support/play.js";

test("a callback that throws does not keep the others from theirs", async () => {
  const played = play();
  const thrown = [];
  const catchIt = (error) => thrown.push(error.message);
  process.prependListener("uncaughtException", catchIt);
  const others = process.listeners("uncaughtException").filter((listener) => listener !== catchIt);
  for (const listener of others) process.removeListener("uncaughtException", listener);
  played.relay.task("t").onUpdate(() => {
    throw new Error("mine");
  });
  played.relay.task("t").onUpdate(played.take);
  opened(played).deliver(subscribed("t", 0), update("t", 1, { a: 1 }));
  await soon();
  process.removeListener("uncaughtException", catchIt);
  for (const listener of others) process.on("uncaughtException", listener);
  assert.deepEqual(thrown, ["mine"]);
  assert.equal(played.updates.length, 1);
});

test("after close no callback is called", async () => {
  const played = play();
  played.relay.task("t").onUpdate(played.take);
  const socket = opened(played);
  socket.deliver(subscribed("t", 0));
  played.relay.close();
  socket.deliver(update("t", 1, { a: 1 }));
  socket.end(1006);
  await soon();
  assert.equal(played.sockets.length, 1);
  assert.deepEqual(played.updates, []);
  assert.throws(() => played.relay.general().onUpdate(played.take), /closed/);
});

test("bad arguments are refused", () => {
  const WebSocket = class {
    close() {}
  };
  assert.throws(() => new RelayClient("ftp://relay", { WebSocket }), /ws:\/\//);
  assert.throws(() => new RelayClient("/ws/tasks", { WebSocket }), TypeError);
  assert.throws(() => new RelayClient("ws://relay", { WebSocket: undefined }), /package ws/);
  assert.throws(() => new RelayClient("ws://relay", { WebSocket, heartbeat: 0 }), RangeError);
  const played = play();
  assert.throws(() => played.relay.task("").onUpdate(played.take), RangeError);
  assert.throws(() => played.relay.task("t").onUpdate(), TypeError);
  assert.throws(() => played.relay.channel(""), RangeError);
  played.relay.close();
  const urls = [];
  class Socket {
    constructor(url) {
      urls.push(url);
    }
    close() {}
  }
  new RelayClient("https://relay/ws/tasks", { WebSocket: Socket }).close();
  new RelayClient("https://relay", { WebSocket: Socket }).close();
  assert.deepEqual(urls, ["wss://relay/ws/tasks", "wss://relay/ws/tasks"]);
});
