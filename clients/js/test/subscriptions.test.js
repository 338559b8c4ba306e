// What a client makes of the messages of a relay: states, updates, resets, resuming.
import assert from "node:assert/strict";
import { test } from "node:test";

import { at, STATE, subscribed, update, play, opened, soon, untilLeft } from "./support/play.js";

test("a new follower gets the state and then updates", () => {
  const played = play();
  played.relay.task("t").onUpdate(played.take);
  const socket = opened(played);
  assert.deepEqual(socket.sent, [{ type: "subscribe", task_id: "t", position: null, deltas: true }]);
  socket.deliver(subscribed("t", 2, STATE), update("t", 2, { a: 1, b: 2 }), update("t", 3, { b: 3 }), update("t", 3, { b: 3 }));
  assert.deepEqual(
    played.updates.map(({ data, state, isState, taskId, type }) => [data, state, isState, taskId, type]),
    [
      [{ a: 1, b: 2 }, { a: 1, b: 2 }, true, "t", "task_update"],
      [{ b: 3 }, { a: 1, b: 3 }, false, "t", "task_update"],
    ],
  );
  assert.deepEqual(played.relay.positions, { "task:t": at(3) });
  assert.deepEqual(played.relay.states, { "task:t": { a: 1, b: 3 } });
  socket.deliver({ type: "task_update", task_id: "t", data: { c: 1 } }); // not persisted
  assert.equal(played.updates.at(-1).position, null);
  assert.deepEqual(played.relay.positions, { "task:t": at(3) });
  played.relay.close();
  assert.equal(socket.closedWith, 1000);
});

test("general updates count from the answer on", () => {
  const played = play();
  played.relay.general().onUpdate(played.take);
  const [socket] = played.sockets;
  socket.open();
  socket.deliver({ type: "general_update", data: { n: 1 } });
  socket.deliver({ type: "subscribed", channel: "general", position: at(1), state: false });
  socket.deliver({ type: "general_update", data: { n: 2 }, position: at(2) });
  assert.deepEqual(played.updates.map(({ data, taskId, channel }) => [data, taskId, channel]), [[{ n: 2 }, null, "general"]]);
  assert.deepEqual(played.relay.states, {});
});

test("it resumes on the next connection, and each update comes once", async () => {
  const played = play();
  played.relay.task("t").onUpdate(played.take);
  opened(played).deliver(subscribed("t", 0), update("t", 1, { n: 1 }));
  played.sockets[0].end(1006);
  assert.match(played.changes.at(-1).detail, /1006/);
  await soon();
  const [, next] = played.sockets;
  next.open();
  next.deliver({ type: "unsubscribed", channel: "general" });
  assert.deepEqual(next.sent[1], { type: "subscribe", task_id: "t", position: at(1), deltas: true });
  next.deliver(subscribed("t", 3, { recovered: true }), update("t", 2, { n: 2 }), update("t", 3, { n: 3 }));
  played.sockets[0].deliver(update("t", 4, { n: "late" })); // of a connection that has ended
  assert.deepEqual(played.updates.map(({ data }) => data.n), [1, 2, 3]);
});

test("a channel that cannot be resumed is reset once, and its state starts empty", async () => {
  const played = play({ positions: { "task:t": at(5, "old") }, states: { "task:t": { gone: 1 } } });
  played.relay.task("t").onUpdate(played.take);
  await soon();
  assert.deepEqual(played.updates.map(({ state, isState }) => [state, isState]), [[{ gone: 1 }, true]]);
  const socket = opened(played);
  assert.deepEqual(socket.sent[0].position, at(5, "old"));
  socket.deliver(subscribed("t", 2, { recovered: false, ...STATE }));
  assert.deepEqual(
    played.updates.slice(1).map(({ type, data, state }) => [type, data, state]),
    [["reset", {}, {}]],
  );
  assert.deepEqual(played.relay.positions, { "task:t": at(5, "old") }, "the state has not come yet");
  socket.end(1006);
  await soon();
  const [, next] = played.sockets;
  next.open();
  next.deliver({ type: "unsubscribed", channel: "general" });
  assert.deepEqual(next.sent[1], { type: "subscribe", task_id: "t", position: null, deltas: true });
  next.deliver(subscribed("t", 2, STATE), update("t", 2, { a: 1 }));
  assert.deepEqual(played.updates.slice(2).map(({ type, state, isState }) => [type, state, isState]), [["task_update", { a: 1 }, true]]);
  next.deliver(subscribed("t", 0, { recovered: false, position: at(0, "new") }), update("t", 1, { b: 1 }, "new"));
  assert.deepEqual(played.updates.slice(3).map(({ type, state }) => [type, state]), [["reset", {}], ["task_update", { b: 1 }]]);
});

test("without a state the answer itself gives the position", () => {
  const played = play();
  played.relay.task("t").onUpdate(played.take);
  const socket = opened(played);
  socket.deliver(subscribed("t", 4));
  assert.deepEqual(played.relay.positions, { "task:t": at(4) });
  assert.deepEqual(socket.sent, [{ type: "subscribe", task_id: "t", position: null, deltas: true }], "nothing more is needed to know that");
});

test("a state may come merged with newer updates", () => {
  const played = play();
  played.relay.task("t").onUpdate(played.take);
  opened(played).deliver(subscribed("t", 2, STATE), update("t", 4, { a: 1, b: 4 }), update("t", 5, { b: 5 }));
  assert.deepEqual(played.updates.map(({ state, isState }) => [state, isState]), [[{ a: 1, b: 4 }, true], [{ a: 1, b: 5 }, false]]);
});

test("tasks come and go, and followers share a channel", async () => {
  const played = play();
  const second = [];
  const stop = played.relay.task("t").onUpdate(played.take);
  const socket = opened(played);
  socket.deliver(subscribed("t", 1, STATE), update("t", 1, { a: 1 }));
  const stopSecond = played.relay.task("t").onUpdate((got) => second.push(got));
  await soon();
  assert.deepEqual(second.map(({ state, isState }) => [state, isState]), [[{ a: 1 }, true]]);
  stop();
  socket.deliver(update("t", 2, { a: 2 }));
  assert.equal(played.updates.length, 1);
  assert.deepEqual(second.at(-1).state, { a: 2 });
  socket.sent.length = 0;
  stopSecond();
  stopSecond();
  await untilLeft();
  played.relay.task("t").onUpdate(played.take);
  assert.deepEqual(
    socket.sent.map(({ type }) => type),
    ["unsubscribe", "subscribe"],
  );
  socket.deliver(update("t", 3, { a: 3 })); // on its way before the relay knew
  socket.deliver({ type: "unsubscribed", task_id: "t" }, subscribed("t", 3, STATE), update("t", 3, { a: 3 }));
  assert.deepEqual(played.updates.slice(1).map(({ state, isState }) => [state, isState]), [[{ a: 3 }, true]]);
});

test("while Redis is unavailable requests are repeated", async () => {
  const played = play();
  played.relay.task("t").onUpdate(played.take);
  played.relay.task("u").onUpdate(played.take);
  const socket = opened(played);
  assert.equal(socket.sent.length, 1, "one request until the relay has shown that it can serve us");
  const away = { type: "error", code: "unavailable", message: "Redis is away" };
  socket.deliver(away);
  await soon();
  socket.deliver(away);
  await soon();
  assert.deepEqual(played.errors, []);
  const seen = () => played.changes.slice(1).map(({ status, isRedisAvailable }) => [status, isRedisAvailable]);
  assert.deepEqual(seen(), [["live", false]], "once for all requests");
  assert.equal(played.relay.task("t").state.connection, "behind");
  socket.deliver(subscribed(socket.sent.at(-1).task_id, 0));
  assert.deepEqual(seen(), [["live", false], ["live", true]]);
});

test("a task that is refused is reported, and the others go on", () => {
  const played = play();
  played.relay.task("t").onUpdate(played.take);
  played.relay.task("u").onUpdate(played.take);
  const socket = opened(played);
  socket.deliver({ type: "error", code: "bad_task_id", message: "too long" });
  assert.deepEqual(played.errors.map(({ code, channel }) => [code, channel]), [["bad_task_id", "task:t"]]);
  socket.deliver(subscribed("u", 0), update("u", 1, { a: 1 }));
  assert.deepEqual(played.updates.map(({ taskId }) => taskId), ["u"]);
});
