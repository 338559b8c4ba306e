// A task's handle: an observable state, and an async iterable of updates.
import assert from "node:assert/strict";
import { test } from "node:test";

import { RelayError } from "../dist/index.js";
import { at, opened, play, soon, STATE, subscribed, untilLeft, update } from "./support/play.js";

test("the state says what is known and how current it is", async () => {
  const played = play();
  const task = played.relay.task("t");
  assert.equal(task.state.connection, "idle");
  const seen = [];
  const stop = task.subscribe(({ data, status, connection, stalled }) => seen.push([connection, status, stalled, data.n]));
  assert.equal(task.state, played.relay.task("t").state, "the same object until something changes");
  const socket = opened(played);
  socket.deliver(subscribed("t", 2, STATE));
  socket.deliver(update("t", 2, { status: "in_progress", n: 2 }));
  socket.deliver(update("t", 3, { stalled: true }));
  socket.end(1006);
  await soon();
  const [, next] = played.sockets;
  next.open();
  next.deliver({ type: "unsubscribed", channel: "general" }, subscribed("t", 5, { recovered: true }));
  next.deliver(update("t", 4, { stalled: false }), update("t", 5, { status: "completed", n: 5 }));
  assert.deepEqual(seen, [
    ["connecting", undefined, false, undefined],
    ["catching_up", undefined, false, undefined],
    ["catching_up", "in_progress", false, 2],
    ["live", "in_progress", false, 2],
    ["live", "in_progress", true, 2],
    ["reconnecting", "in_progress", true, 2],
    ["connecting", "in_progress", true, 2],
    ["catching_up", "in_progress", true, 2],
    ["catching_up", "in_progress", false, 2],
    ["catching_up", "completed", false, 5],
    ["complete", "completed", false, 5],
  ]);
  stop();
  await untilLeft();
  assert.deepEqual(next.sent.at(-1), { type: "unsubscribe", task_id: "t" });
  assert.equal(task.state.connection, "idle");
});

test("a loop has every update, and ends with the task", async () => {
  const played = play();
  const seen = [];
  const loop = (async () => {
    for await (const { data } of played.relay.task("t")) seen.push(data.n);
  })();
  opened(played).deliver(subscribed("t", 1, STATE), update("t", 1, { n: 1 }), update("t", 2, { n: 2 }), update("t", 3, { n: 3, status: "failed" }));
  await loop;
  assert.deepEqual(seen, [1, 2, 3]);
  await untilLeft();
  assert.deepEqual(played.relay.positions, {}, "it is not followed any more");
});

test("updates that wait for a slow loop are merged, and none is lost", async () => {
  const played = play();
  const loop = played.relay.task("t")[Symbol.asyncIterator]();
  const socket = opened(played);
  socket.deliver(subscribed("t", 0));
  for (let n = 1; n <= 1500; n += 1) socket.deliver(update("t", n, { n, [`f${n}`]: n}));
  const seen = [];
  for (let n = 0; n < 1000; n += 1) seen.push((await loop.next()).value);
  assert.equal(seen[998].data.n, 999);
  assert.equal(seen[999].data.n, 1500);
  assert.equal(seen[999].data.f1200, 1200);
  assert.deepEqual(seen[999].position, at(1500));
  await loop.return();
});

test("a loop ends with the error of a task that is refused, or of a client that is closed", async () => {
  const played = play();
  const loops = ["t", "u"].map((task) => played.relay.task(task)[Symbol.asyncIterator]());
  const waiting = loops.map((loop) => assert.rejects(loop.next(), RelayError));
  opened(played).deliver({ type: "error", code: "forbidden", message: "no" });
  await waiting[0];
  assert.equal(played.relay.task("t").state.connection, "refused");
  assert.equal(played.relay.task("t").state.error.code, "forbidden");
  played.relay.close();
  await waiting[1];
});

test("fields with the names of an object's own do no harm", () => {
  const played = play();
  played.relay.task("t").onUpdate(played.take);
  const socket = opened(played);
  socket.deliver(subscribed("t", 0));
  socket.onmessage({ data: '{"type":"task_update","task_id":"t","data":{"__proto__":{"polluted":1},"constructor":2},"position":{"epoch":"e","offset":1}}' });
  const { state } = played.updates.at(-1);
  assert.equal(state.polluted, undefined);
  assert.deepEqual(Object.keys(state), ["__proto__", "constructor"]);
});

test("messages of extra channels are told apart by their epoch", () => {
  const played = play();
  const seen = [];
  for (const name of ["a", "b"]) played.relay.channel(name).onUpdate(({ channel, data }) => seen.push([channel, data.n]));
  const socket = opened(played);
  assert.deepEqual(socket.sent[0], { type: "subscribe", channel: "a", position: null });
  for (const channel of ["a", "b"]) socket.deliver({ type: "subscribed", channel, position: at(0, channel), state: false });
  socket.deliver({ type: "action", n: 1, position: at(1, "b") }, { type: "action", n: 2, position: at(1, "a") }, { type: "action", n: 3 });
  assert.deepEqual(seen, [["channel:b", 1], ["channel:a", 2]]);
});
