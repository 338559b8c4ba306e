// A task together with its children: one subscription, one position.
import assert from "node:assert/strict";
import { test } from "node:test";

import { Follower } from "../dist/sharing/follower.js";
import { at, opened, play, soon } from "./support/play.js";

const subscribed = (offset, more = {}) => ({ type: "subscribed", task_id: "p", children: true, position: at(offset), state: true, ...more });
const states = (offset, tasks, more = {}) => ({
  type: "task_states",
  family: "p",
  tasks: Object.entries(tasks).map(([task_id, data]) => ({ task_id, data })),
  position: at(offset),
  ...more,
});
const update = (task_id, offset, data) => ({ type: "task_update", task_id, data, family: "p", position: at(offset) });
const REQUEST = { type: "subscribe", task_id: "p", children: true };

const brief = ({ type, taskId, data, state, isState }) => [type, taskId, data, state, isState];

test("a family begins with the states of its tasks, and goes on with their updates", () => {
  const played = play();
  const family = played.relay.family("p");
  family.onUpdate(played.take);
  assert.deepEqual([family.id, family.channel], ["p", "family:p"]);
  const socket = opened(played);
  assert.deepEqual(socket.sent, [{ ...REQUEST, position: null }]);
  socket.deliver(subscribed(4), states(4, { a: { text: "on" }, p: { status: "in_progress" } }));
  socket.deliver(update("a", 5, { text: { $append: "ce" } }), update("a", 5, { text: { $append: "ce" } }), update("b", 8, { n: 1 }));
  socket.deliver({ type: "task_update", task_id: "p", data: { n: 1 }, position: at(9) }); // of another subscription
  assert.deepEqual(played.updates.map(brief), [
    ["task_update", "p", { status: "in_progress" }, { status: "in_progress" }, true],
    ["task_update", "a", { text: "on" }, { text: "on" }, true],
    ["task_update", "a", { text: "once" }, { text: "once" }, false],
    ["task_update", "b", { n: 1 }, { n: 1 }, false],
  ]);
  assert.ok(played.updates.every(({ channel }) => channel === "family:p"));
  assert.deepEqual(played.relay.positions, { "family:p": at(8) });
  assert.deepEqual(played.relay.states, { "family:p": { p: { status: "in_progress" }, a: { text: "once" }, b: { n: 1 } } });
});

test("its state is the task's, with the children", () => {
  const played = play();
  const family = played.relay.family("p");
  assert.equal(family.state, played.relay.family("p").state);
  assert.deepEqual([family.state.connection, family.state.children.size, family.state.isTruncated], ["idle", 0, false]);
  const seen = [];
  const stop = family.subscribe(({ status, data, children, connection }) => seen.push([status, data.n, Object.fromEntries(children), connection]));
  const socket = opened(played);
  socket.deliver(subscribed(1), states(1, { p: { status: "in_progress", n: 1 }, a: { n: 2 } }), update("a", 2, { n: 3 }), update("p", 3, { n: 4 }));
  assert.deepEqual(seen.slice(-3), [
    ["in_progress", 1, { a: { n: 2 } }, "live"],
    ["in_progress", 1, { a: { n: 3 } }, "live"],
    ["in_progress", 4, { a: { n: 3 } }, "live"],
  ]);
  assert.equal(family.state, family.state, "the same until something changes");
  const { children } = family.state;
  socket.deliver(update("p", 4, { n: 5 }));
  assert.equal(family.state.children, children);
  socket.deliver(update("a", 5, { n: 5 }));
  assert.notEqual(family.state.children, children);
  assert.deepEqual(children.get("a"), { n: 3 }, "what was shown does not change");
  stop();
});

test("it resumes, and what cannot be resumed starts over", async () => {
  const played = play();
  played.relay.family("p").onUpdate(played.take);
  opened(played).deliver(subscribed(1), states(1, { p: {}, a: { text: "a" }, gone: { n: 1 } }));
  played.sockets[0].end(1006);
  await soon();
  const [, next] = played.sockets;
  next.open();
  next.deliver({ type: "unsubscribed", channel: "general" });
  assert.deepEqual(next.sent[1], { ...REQUEST, position: at(1) });
  next.deliver(subscribed(2, { recovered: true, state: false }), update("a", 2, { text: { $append: "b" } }));
  assert.deepEqual(played.updates.at(-1).state, { text: "ab" });
  played.updates.length = 0;
  next.deliver(subscribed(7, { recovered: false }));
  assert.deepEqual(played.updates.map(brief), [["reset", null, {}, {}, false]]);
  assert.equal(played.relay.family("p").state.connection, "catching_up");
  next.deliver(states(7, { p: {}, a: { text: "new" } }));
  assert.deepEqual(played.updates.slice(1).map(brief), [
    ["task_update", "p", {}, {}, true],
    ["task_update", "a", { text: "new" }, { text: "new" }, true],
  ]);
  assert.deepEqual([...played.relay.family("p").state.children.keys()], ["a"], "the one that is gone is forgotten");
});

test("the next client goes on from a position with its states, and asks for them where it has none", async () => {
  const positions = { "family:p": at(5) };
  const played = play({ positions, states: { "family:p": { p: { n: 0 }, a: { text: "a" } } } });
  played.relay.family("p").onUpdate(played.take);
  await soon();
  assert.deepEqual(played.updates.map(({ taskId, isState }) => [taskId, isState]), [["p", true], ["a", true]]);
  const socket = opened(played);
  assert.deepEqual(socket.sent, [{ ...REQUEST, position: at(5) }]);
  socket.deliver(subscribed(6, { recovered: true, state: false }), update("a", 6, { text: { $append: "b" } }));
  assert.deepEqual(played.updates.at(-1).state, { text: "ab" });
  const without = play({ positions });
  without.relay.family("p").onUpdate(without.take);
  assert.deepEqual(opened(without).sent, [{ ...REQUEST, position: null }]);
});

test("its loop ends when the task and its children have ended", async () => {
  const played = play();
  const family = played.relay.family("p");
  const ended = [];
  const loop = (async () => {
    for await (const { taskId, state } of family) if (state.status === "completed") ended.push(taskId);
  })();
  const socket = opened(played);
  const children = { done: 1, total: 3 };
  socket.deliver(subscribed(1), states(1, { p: { status: "in_progress" }, a: { status: "in_progress" } }, { truncated: true }));
  socket.deliver(update("b", 2, { status: "completed" }), update("p", 3, { status: "completed", children }), update("a", 4, { status: "completed" }));
  await soon();
  assert.equal(family.state.isTruncated, true);
  assert.equal(family.state.connection, "live", "another one has not ended, of which nothing is known");
  socket.deliver(update("p", 5, { children: { done: 3, total: 3 } }));
  assert.equal(family.state.connection, "complete");
  await loop;
  assert.deepEqual(ended, ["b", "p", "a", "p"]);
});

test("what is appended to a text of which the beginning is not known is left out", () => {
  const played = play();
  played.relay.family("p").onUpdate(played.take);
  const socket = opened(played);
  socket.deliver(subscribed(1), states(1, { p: {}, a: {} }, { truncated: true }));
  socket.deliver(update("z", 2, { text: { $append: "ce" }, n: 1 }), update("z", 3, { text: { $append: "!" } }));
  socket.deliver(update("z", 4, { text: "new" }), update("z", 5, { text: { $append: "er" } }), update("a", 6, { text: { $append: "x" } }));
  assert.deepEqual(played.updates.slice(2).map(({ state }) => state), [{ n: 1 }, { n: 1 }, { n: 1, text: "new" }, { n: 1, text: "newer" }, { text: "x" }]);
});

test("updates that wait for a slow loop are merged for each task", async () => {
  const played = play();
  const loop = played.relay.family("p")[Symbol.asyncIterator]();
  const socket = opened(played);
  socket.deliver(subscribed(1), states(1, { p: {}, a: { text: "" }, b: { text: "" } }));
  for (let n = 2; n < 3_000; n += 1) socket.deliver(update(n % 2 ? "a" : "b", n, { text: { $append: "x" } }));
  const last = {};
  let count = 0;
  for (let next = loop.next(); count < 1_000; next = loop.next()) {
    const { value } = await next;
    last[value.taskId] = value.state.text;
    count += 1;
  }
  assert.deepEqual([last.a.length, last.b.length], [1499, 1499]);
  await loop.return();
});

test("what the relay refuses, or sends in another form, is reported", async () => {
  const played = play();
  played.relay.family("p").onUpdate(played.take);
  opened(played).deliver({ type: "error", code: "no_children", message: "follow each task", task_id: "p", children: true });
  assert.deepEqual(played.errors.map(({ code, channel }) => [code, channel]), [["no_children", "family:p"]]);
  const bad = [
    states(1, {}, { tasks: 5 }),
    states(1, {}, { position: undefined }),
    states(1, {}, { tasks: [{ task_id: "a" }] }),
    update("a", 1, { n: 1 }), // before the states
    { ...update("a", 1, {}), data: null },
  ];
  for (const message of bad) {
    const other = play();
    other.relay.family("p").onUpdate(other.take);
    const socket = opened(other);
    socket.deliver(subscribed(1), message);
    assert.equal(socket.closedWith, "nothing", JSON.stringify(message));
  }
});

test("a tab that joins a family which another one follows gets its states", () => {
  const shared = { position: at(3), state: { p: {}, a: { n: 1 } }, isTruncated: true };
  const [sent, ...more] = new Follower(null).join("family:p", shared);
  assert.deepEqual([sent.type, sent.taskId, sent.data, sent.position, sent.isTruncated], ["task_states", null, shared.state, at(3), true]);
  assert.deepEqual(more, []);
  assert.deepEqual(new Follower(at(3)).join("family:p", shared), []);
  const [reset, all] = new Follower(at(3, "old")).join("family:p", shared);
  assert.deepEqual([reset.type, all.type], ["reset", "task_states"]);
});
