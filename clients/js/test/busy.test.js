// A relay that is busy says for how long to stay away.
import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { retryAfter } from "../dist/index.js";
import { Engine } from "../dist/engine/engine.js";
import { resolved } from "../dist/engine/options.js";
import { mockedClock, untilNext } from "./support/clock.js";
import { fakeSockets, play, soon, watch } from "./support/play.js";

const realFetch = globalThis.fetch;
afterEach(() => {
  globalThis.fetch = realFetch;
});

const answer = (status, wait) => new Response("{}", { status, headers: { "retry-after": wait } });

test("only an answer that says so asks to wait, and for a minute at most", () => {
  assert.equal(retryAfter(answer(429, "7")), 7_000);
  assert.equal(retryAfter(answer(503, " 1 ")), 1_000);
  assert.equal(retryAfter(answer(503, "86400")), 60_000);
  const date = retryAfter(answer(503, new Date(Date.now() + 5_000).toUTCString()));
  assert.ok(date > 3_000 && date <= 5_000, String(date));
  const none = [answer(200, "7"), answer(500, "7"), answer(503, "soon"), answer(503, "-1"), answer(503, "0"), answer(503, "Thu, 01 Jan 1970 00:00:00 GMT")];
  assert.deepEqual([...none, new Response("", { status: 503 })].map(retryAfter), Array(7).fill(0));
});

/** An engine on which WebSockets are refused, so that it tries /events, which answers this. `pass` lets time pass. */
async function refused(t, response) {
  const pass = mockedClock(t);
  const { sockets, FakeSocket } = fakeSockets();
  const changes = [];
  const events = { onUpdate() {}, onStatus() {}, onError() {}, onConnection: (state) => changes.push(state) };
  const options = resolved({ WebSocket: FakeSocket, random: () => 1, retryBase: 100, retryCap: 100 });
  let isAsked = false;
  globalThis.fetch = async () => {
    isAsked = true;
    return response;
  };
  const engine = new Engine(new URL("ws://relay/ws/tasks"), options, events);
  t.after(() => engine.close());
  engine.follow("task:t", null, {});
  for (let refusal = 0; refusal < 2; refusal += 1) {
    sockets.at(-1).end(1006);
    pass(100);
  }
  assert.equal(sockets.length, 2);
  changes.length = 0;
  while (changes.at(-1)?.status !== "reconnecting") {
    await new Promise((resolve) => setImmediate(resolve));
    if (!isAsked) pass(1); // further requests are awaited before a stream is opened
  }
  return { engine, sockets, pass };
}

for (const [what, response, wait] of [
  ["an answer with Retry-After", answer(429, "7"), 7_000],
  ["a stream that ends after its field retry", new Response("retry: 3000\n\n"), 3_000],
  ["an answer without", new Response("", { status: 503 }), 0],
]) {
  test(`after ${what} the client waits as it is asked, and then for a delay of its own`, async (t) => {
    const { sockets, pass } = await refused(t, response);
    assert.equal(untilNext(sockets, pass), wait + 100);
  });
}

test("a relay that shuts down says when to come back, and in a time of its own", (t) => {
  const pass = mockedClock(t);
  const played = play({ random: () => 1, retryBase: 100 });
  const waits = [["shutting down; retry after 3.25 s", 3_250], ["shutting down; retry after 86400 s", 60_000], ["retry after 5 s, or so", 0]];
  for (const [reason, wait] of waits) {
    const socket = played.sockets.at(-1);
    socket.open();
    pass(2_000);
    socket.end(1001, reason);
    assert.equal(untilNext(played.sockets, pass), wait + 100);
  }
});

test("neither a page that is shown again nor one that wakes asks earlier", async (t) => {
  const { engine, sockets, pass } = await refused(t, answer(429, "7"));
  pass(1_000);
  engine.probe();
  pass(1_000);
  engine.pause("frozen");
  pass(1_000);
  engine.resume();
  assert.equal(untilNext(sockets, pass), 4_100);
  engine.pause("frozen");
  engine.resume();
  assert.equal(sockets.length, 4, "afterwards it connects at once");
});

test("a list is not read again before a busy relay permits it", async () => {
  const asked = [];
  globalThis.fetch = async () => {
    asked.push(performance.now());
    return asked.length === 1 ? answer(429, "1") : Response.json({ tasks: [], next: null });
  };
  const { relay } = play();
  const list = relay.tasks({}, { refresh: 10 });
  const stop = watch(list);
  while (list.state.error === null) await soon(1);
  assert.deepEqual([list.state.error.code, list.state.error.retryAfter], [429, 1_000]);
  list.refresh();
  while (asked.length < 2) await soon();
  assert.ok(asked[1] - asked[0] >= 990, String(asked[1] - asked[0]));
  stop();
});
