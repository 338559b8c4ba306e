// Lists of tasks: read by HTTP, again from time to time, live where somebody looks.
import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { play, soon, STATE, subscribed, update, watch } from "./support/play.js";

const realFetch = globalThis.fetch;
afterEach(() => {
  globalThis.fetch = realFetch;
});

/** A relay's list over HTTP. `asked` has the requests. */
function serveList(tasks, pageSize = 500) {
  const asked = [];
  globalThis.fetch = async (url, { headers }) => {
    const query = Object.fromEntries(url.searchParams);
    asked.push(query);
    const from = Number(query.after ?? 0);
    const size = Math.min(pageSize, Number(query.limit));
    const etag = `W/"${JSON.stringify(tasks).length}"`;
    if (headers.get("if-none-match") === etag) return new Response(null, { status: 304 });
    const next = from + size < tasks.length ? String(from + size) : null;
    return Response.json({ tasks: tasks.slice(from, from + size), next }, { headers: { etag } });
  };
  return asked;
}

const item = (id, active, data = {}) => ({ task_id: id, active, data: { status: "in_progress", ...data } });
const until = async (check) => {
  while (!check()) await soon(10);
};

test("a list is read page by page, and ordered by activity", async () => {
  const asked = serveList([{ ...item("a", 3), run: 2 }, item("b", 2), item("c", 1)], 2);
  const { relay } = play();
  const list = relay.tasks({ limit: 10 });
  assert.deepEqual([list.state.isLoading, list.state.tasks], [true, []]);
  const stop = watch(list);
  await until(() => list.state.tasks.length === 3);
  assert.deepEqual(list.state.tasks.map(({ id, active }) => [id, active]), [["a", 3000], ["b", 2000], ["c", 1000]]);
  assert.deepEqual(list.state.tasks.map(({ run }) => run), [2, undefined, undefined]);
  assert.deepEqual([list.state.isLoading, list.state.isTruncated], [false, false]);
  assert.deepEqual(asked.map(({ after }) => after), [undefined, "2"]);
  stop();
});

test("what has not changed is not read again, and only what is new", async () => {
  const tasks = [5, 4, 3, 2, 1].map((active) => item(`t${active}`, active));
  const asked = serveList(tasks, 2);
  const { relay } = play();
  const list = relay.tasks({}, { refresh: 20 });
  const stop = watch(list);
  await until(() => list.state.tasks.length === 5);
  asked.length = 0;
  await until(() => asked.length >= 3);
  assert.ok(asked.every(({ after }) => after === undefined), "the first page says that nothing has changed");
  tasks.unshift(item("t6", 6));
  await until(() => list.state.tasks.length === 6);
  assert.ok(asked.every(({ after }) => after !== "4"), "and the second one that the rest is known");
  stop();
});

test("tasks on the screen are followed live, and left when they are not", async () => {
  serveList([item("a", 2), item("b", 1)]);
  const played = play();
  const list = played.relay.tasks({}, { live: 5 });
  list.watch(["b"]);
  const stop = watch(list);
  await until(() => list.state.tasks.length === 2 && played.relay.task("b").state.connection !== "idle");
  const [socket] = played.sockets;
  socket.open();
  const subscriptions = () => socket.sent.filter(({ type }) => type === "subscribe").map(({ task_id, channel }) => task_id ?? channel);
  socket.deliver({ type: "subscribed", channel: "general", position: { epoch: "g", offset: 0 }, state: false });
  assert.deepEqual(subscriptions(), ["general", "b"]);
  socket.deliver(subscribed("b", 1, STATE), update("b", 1, { status: "in_progress", progress: 1 }), update("b", 2, { progress: 50 }));
  await until(() => list.state.tasks.find(({ id }) => id === "b").data.progress === 50);
  socket.deliver({ type: "general_update", data: { type: "task_created", task_info: { task_id: "c", status: "pending" } }, position: { epoch: "g", offset: 1 } });
  await until(() => list.state.tasks.some(({ id }) => id === "c"));
  stop();
  await until(() => socket.sent.some(({ type, task_id }) => type === "unsubscribe" && task_id === "b"));
});

test("a list that cannot be read says why, and is tried again", async () => {
  let isAway = true;
  const good = serveList([item("a", 1)]);
  const serve = globalThis.fetch;
  globalThis.fetch = async (...request) => (isAway ? Response.json({ code: "unavailable", message: "Redis is away" }, { status: 503 }) : serve(...request));
  const { relay } = play();
  const list = relay.tasks({}, { refresh: 20 });
  const stop = watch(list);
  await until(() => list.state.error !== null);
  assert.equal(list.state.error.code, "unavailable");
  assert.match(list.state.error.message, /Redis is away/);
  isAway = false;
  await until(() => list.state.error === null && list.state.tasks.length === 1);
  assert.ok(good.length > 0);
  stop();
});

test("a filter is asked of the relay, and holds for what arrives live", async () => {
  const asked = serveList([item("a", 2, { kind: "k" }), item("b", 1, { kind: "other" })]);
  const { relay } = play();
  const list = relay.tasks({ kind: "k", owner: "user:7", status: ["in_progress", "failed"], text: "A", parentId: "p" });
  const stop = watch(list);
  await until(() => !list.state.isLoading);
  assert.deepEqual(list.state.tasks.map(({ id }) => id), ["a"]);
  assert.deepEqual(asked[0], { limit: "500", status: "in_progress,failed", owner: "user:7", kind: "k", parent: "p", text: "A" });
  stop();
});

test("general updates are followed with a list only while it is observed", async () => {
  serveList([]);
  const played = play();
  const stop = watch(played.relay.tasks());
  const [socket] = played.sockets;
  socket.open();
  assert.deepEqual(socket.sent, [{ type: "subscribe", channel: "general", position: null }]);
  socket.deliver({ type: "subscribed", channel: "general", position: { epoch: "g", offset: 0 }, state: false });
  stop();
  await until(() => socket.sent.some(({ type }) => type === "unsubscribe"));
});
