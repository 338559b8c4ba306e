// The client against a relay that the test plays: `node --test`. tests/integration/interop/test_js_client.py runs this, and the client on real relays.
import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { RelayClient, RelayError } from "./relay-client.js";

const at = (offset, epoch = "e") => ({ epoch, offset });
const PONG = { type: "pong", timestamp: "now" };
const subscribed = (task_id, offset, more = {}) => ({ type: "subscribed", task_id, position: at(offset), state: false, ...more });
const STATE = { state: true };
const update = (task_id, offset, data, epoch) => ({ type: "task_update", task_id, data, position: at(offset, epoch) });

/** Those of the present test. A client that is not closed keeps Node alive. */
const clients = [];
afterEach(() => clients.splice(0).forEach((client) => client.close()));

/** A client and its relay: `sockets` are its connections, `sent` what it has sent on each, `updates` what its callbacks got. */
function play(options = {}) {
  const sockets = [];
  class FakeSocket {
    sent = [];
    constructor(url) {
      this.url = url;
      sockets.push(this);
    }
    send(text) {
      this.sent.push(JSON.parse(text));
    }
    close(code) {
      this.closedWith = code ?? "nothing";
    }
    /** What the relay does. */
    open() {
      this.onopen({});
    }
    deliver(...messages) {
      for (const message of messages) this.onmessage({ data: JSON.stringify(message) });
    }
    end(code, reason = "") {
      this.onclose({ code, reason });
    }
  }
  const changes = [];
  const errors = [];
  const updates = [];
  const relay = new RelayClient("ws://relay/ws/tasks", {
    WebSocket: FakeSocket,
    random: () => 0,
    onConnection: (change) => changes.push(change),
    onError: (error) => errors.push(error),
    ...options,
  });
  clients.push(relay);
  const take = (got) => updates.push(got);
  return { relay, sockets, changes, errors, updates, take };
}

/** Open the first connection and answer the unsubscription from general updates. */
function opened(played) {
  const [socket] = played.sockets;
  socket.open();
  assert.deepEqual(socket.sent.shift(), { type: "unsubscribe", channel: "general" });
  socket.deliver({ type: "unsubscribed", channel: "general" });
  return socket;
}

/** Timers of no length have fired, also those that they started: Node fires earlier and shorter ones first, however busy it is. */
async function soon() {
  for (let round = 0; round < 5; round += 1) await sleep(2);
}

test("a new follower gets the state and then updates", () => {
  const played = play();
  played.relay.task("t", played.take);
  const socket = opened(played);
  assert.deepEqual(socket.sent, [{ type: "subscribe", task_id: "t", position: null }]);
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
  played.relay.general(played.take);
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
  played.relay.task("t", played.take);
  opened(played).deliver(subscribed("t", 0), update("t", 1, { n: 1 }));
  played.sockets[0].end(1006);
  assert.match(played.changes.at(-1).detail, /1006/);
  await soon();
  const [, next] = played.sockets;
  next.open();
  next.deliver({ type: "unsubscribed", channel: "general" });
  assert.deepEqual(next.sent[1], { type: "subscribe", task_id: "t", position: at(1) });
  next.deliver(subscribed("t", 3, { recovered: true }), update("t", 2, { n: 2 }), update("t", 3, { n: 3 }));
  played.sockets[0].deliver(update("t", 4, { n: "late" })); // of a connection that has ended
  assert.deepEqual(played.updates.map(({ data }) => data.n), [1, 2, 3]);
});

test("a channel that cannot be resumed is reset once, and its state starts empty", async () => {
  const played = play({ positions: { "task:t": at(5, "old") }, states: { "task:t": { gone: 1 } } });
  played.relay.task("t", played.take);
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
  assert.deepEqual(next.sent[1], { type: "subscribe", task_id: "t", position: null });
  next.deliver(subscribed("t", 2, STATE), update("t", 2, { a: 1 }));
  assert.deepEqual(played.updates.slice(2).map(({ type, state, isState }) => [type, state, isState]), [["task_update", { a: 1 }, true]]);
  next.deliver(subscribed("t", 0, { recovered: false, position: at(0, "new") }), update("t", 1, { b: 1 }, "new"));
  assert.deepEqual(played.updates.slice(3).map(({ type, state }) => [type, state]), [["reset", {}], ["task_update", { b: 1 }]]);
});

test("without a state the answer itself gives the position", () => {
  const played = play();
  played.relay.task("t", played.take);
  const socket = opened(played);
  socket.deliver(subscribed("t", 4));
  assert.deepEqual(played.relay.positions, { "task:t": at(4) });
  assert.deepEqual(socket.sent, [{ type: "subscribe", task_id: "t", position: null }], "nothing more is needed to know that");
});

test("a state may come merged with newer updates", () => {
  const played = play();
  played.relay.task("t", played.take);
  opened(played).deliver(subscribed("t", 2, STATE), update("t", 4, { a: 1, b: 4 }), update("t", 5, { b: 5 }));
  assert.deepEqual(played.updates.map(({ state, isState }) => [state, isState]), [[{ a: 1, b: 4 }, true], [{ a: 1, b: 5 }, false]]);
});

test("tasks come and go, and followers share a channel", async () => {
  const played = play();
  const second = [];
  const stop = played.relay.task("t", played.take);
  const socket = opened(played);
  socket.deliver(subscribed("t", 1, STATE), update("t", 1, { a: 1 }));
  const stopSecond = played.relay.task("t", (got) => second.push(got));
  await soon();
  assert.deepEqual(second.map(({ state, isState }) => [state, isState]), [[{ a: 1 }, true]]);
  stop();
  socket.deliver(update("t", 2, { a: 2 }));
  assert.equal(played.updates.length, 1);
  assert.deepEqual(second.at(-1).state, { a: 2 });
  socket.sent.length = 0;
  stopSecond();
  stopSecond();
  played.relay.task("t", played.take);
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
  played.relay.task("t", played.take);
  played.relay.task("u", played.take);
  const socket = opened(played);
  assert.equal(socket.sent.length, 1, "one request until the relay has shown that it can serve us");
  const away = { type: "error", code: "unavailable", message: "Redis is away" };
  socket.deliver(away);
  await soon();
  socket.deliver(away);
  await soon();
  assert.deepEqual(played.errors, []);
  const seen = () => played.changes.slice(1).map(({ isUp, isRedisAvailable }) => [isUp, isRedisAvailable]);
  assert.deepEqual(seen(), [[true, false]], "once for all requests");
  socket.deliver(subscribed(socket.sent.at(-1).task_id, 0));
  assert.deepEqual(seen(), [[true, false], [true, true]]);
});

test("a task that is refused is reported, and the others go on", () => {
  const played = play();
  played.relay.task("t", played.take);
  played.relay.task("u", played.take);
  const socket = opened(played);
  socket.deliver({ type: "error", code: "bad_task_id", message: "too long" });
  assert.deepEqual(played.errors.map(({ code, channel }) => [code, channel]), [["bad_task_id", "task:t"]]);
  socket.deliver(subscribed("u", 0), update("u", 1, { a: 1 }));
  assert.deepEqual(played.updates.map(({ taskId }) => taskId), ["u"]);
});

/** Answer as a relay does that lets a connection follow so many channels, and ends it after 16 errors. */
function serve(socket, limit) {
  const followed = new Set();
  let errors = 0;
  while (socket.sent.length > 0) {
    const { type, task_id } = socket.sent.shift();
    if (type === "unsubscribe") {
      followed.delete(task_id);
      socket.deliver({ type: "unsubscribed", task_id });
    } else if (followed.size >= limit) {
      errors += 1;
      assert.ok(errors < 16, "the relay would end the connection");
      socket.deliver({ type: "error", code: "too_many_subscriptions", message: "the limit" });
    } else {
      followed.add(task_id);
      socket.deliver(subscribed(task_id, 0));
    }
  }
  return { followed, errors };
}

for (const [limit, tasks] of [[256, 300], [8, 300], [1, 40]]) {
  test(`of ${tasks} tasks a relay with a limit of ${limit} delivers so many, and the others are reported`, () => {
    const played = play();
    for (let number = 0; number < tasks; number += 1) played.relay.task(number, played.take);
    const socket = opened(played);
    const { followed } = serve(socket, limit);
    assert.equal(followed.size, limit);
    assert.equal(socket.closedWith, undefined);
    assert.equal(played.errors.length, tasks - limit);
    assert.equal(new Set(played.errors.map(({ channel }) => channel)).size, tasks - limit);
    for (const error of played.errors) {
      assert.equal(error.code, "too_many_subscriptions");
      assert.match(error.message, new RegExp(`^${error.channel} is not followed: .* follow ${limit} channels`));
    }
    socket.deliver(update(String(limit - 1), 1, { a: 1 }));
    assert.deepEqual(played.updates.map(({ taskId }) => taskId), [String(limit - 1)]);
  });
}

test("beyond the limit there is room again when another task is left", () => {
  const played = play();
  const stops = ["a", "b", "c"].map((task) => played.relay.task(task, played.take));
  const socket = opened(played);
  serve(socket, 2);
  assert.deepEqual(played.errors.map(({ channel }) => channel), ["task:c"]);
  played.relay.task("d", played.take);
  assert.deepEqual(played.errors.map(({ channel }) => channel), ["task:c", "task:d"]);
  assert.deepEqual(socket.sent, [], "the relay is not asked for what it will refuse");
  stops[0]();
  played.relay.task("e", played.take);
  assert.deepEqual(socket.sent.map(({ type, task_id }) => [type, task_id]), [["unsubscribe", "a"], ["subscribe", "e"]]);
});

test("a silent relay is sent a ping, and left when it does not answer", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const played = play({ heartbeat: 1000, heartbeatTimeout: 500 });
  const socket = opened(played);
  t.mock.timers.tick(999);
  assert.deepEqual(socket.sent, []);
  t.mock.timers.tick(1);
  assert.deepEqual(socket.sent, [{ type: "ping" }]);
  socket.deliver(PONG);
  t.mock.timers.tick(1000);
  assert.deepEqual(socket.sent, [{ type: "ping" }, { type: "ping" }]);
  t.mock.timers.tick(499);
  assert.equal(socket.closedWith, undefined);
  t.mock.timers.tick(1);
  assert.equal(socket.closedWith, "nothing");
  assert.equal(played.changes.at(-1).detail, "the relay is silent");
  t.mock.timers.tick(1);
  assert.equal(played.sockets.length, 2);
});

test("a connection that does not open in time is given up", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const played = play({ connectTimeout: 1000 });
  t.mock.timers.tick(999);
  assert.equal(played.sockets[0].closedWith, undefined);
  t.mock.timers.tick(1);
  assert.equal(played.sockets[0].closedWith, "nothing");
  assert.match(played.changes[0].detail, /not opened in time/);
  t.mock.timers.tick(1);
  assert.equal(played.sockets.length, 2);
});

test("an error without a close is the end of a connection, too", async () => {
  const played = play();
  const [socket] = played.sockets;
  socket.onerror({});
  await soon();
  assert.equal(played.sockets.length, 2);
  const [, second] = played.sockets;
  second.open();
  second.onerror({});
  second.end(1002, "invalid frame");
  assert.match(played.changes.at(-1).detail, /1002 invalid frame/, "the close has more detail");
  await soon();
  assert.equal(played.sockets.length, 3, "the relay has not sent this code");
  assert.deepEqual(played.errors, []);
});

test("close codes are honoured", async () => {
  for (const code of [1002, 1003, 1007, 1008, 1009]) {
    const played = play();
    opened(played).end(code, "because");
    await soon();
    assert.equal(played.sockets.length, 1);
    assert.ok(played.errors[0] instanceof RelayError);
    assert.equal(played.errors[0].code, code);
    assert.throws(() => played.relay.task("t", played.take), RelayError);
  }
  // All others, also those that no relay sends: a proxy or a load balancer did.
  const played = play();
  const codes = [1000, 1001, 1004, 1005, 1006, 1010, 1011, 1012, 1013, 1014, 1015, 2000, 3000, 3999, 4000, 4008, 4009, 4999];
  for (const code of codes) {
    opened({ sockets: played.sockets.slice(-1) }).end(code, "because");
    await soon();
  }
  assert.equal(played.sockets.length, codes.length + 1);
  assert.deepEqual(played.errors, []);
});

test("delays grow, are drawn at random, and have a bound", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const played = play({ random: () => 1, retryBase: 100, retryCap: 400 });
  for (const delay of [100, 200, 400, 400]) {
    const before = played.sockets.length;
    played.sockets.at(-1).end(1006);
    assert.equal(played.changes.at(-1).retryIn, delay);
    t.mock.timers.tick(delay - 1);
    assert.equal(played.sockets.length, before);
    t.mock.timers.tick(1);
    assert.equal(played.sockets.length, before + 1);
  }
});

test("a WebSocket that cannot be made is tried again", async () => {
  const played = play();
  opened(played).end(1006);
  const { sockets, changes } = played;
  const push = sockets.push;
  sockets.push = () => {
    sockets.push = push;
    throw new Error("not now");
  };
  await soon();
  assert.match(changes.at(-1).detail, /not now/);
  await soon();
  assert.equal(sockets.length, 2);
});

test("unexpected messages end the connection", async () => {
  const bad = ["nonsense", "[]", "null", '{"type":"pong"}', '{"type":"subscribed","task_id":"t"}', '{"type":"subscribed","task_id":"t","position":5,"state":false}', '{"type":"task_update","task_id":"t","data":{},"position":{"epoch":"e"}}', '{"type":"subscribed","task_id":"t","position":{"epoch":"e","offset":1}}', '{"type":"task_update","task_id":"t","data":3}'];
  for (const data of bad) {
    const played = play();
    played.relay.task("t", played.take);
    const socket = opened(played);
    if (data.includes("data")) socket.deliver(subscribed("t", 0));
    socket.onmessage({ data });
    assert.equal(socket.closedWith, "nothing", data);
    assert.match(played.changes.at(-1).detail, /sent something unexpected/);
  }
  const played = play();
  const socket = opened(played);
  socket.deliver({ type: "weather" }); // of a newer relay
  assert.equal(socket.closedWith, undefined);
});

test("a callback that throws does not keep the others from theirs", async () => {
  const played = play();
  const thrown = [];
  const catchIt = (error) => thrown.push(error.message);
  process.prependListener("uncaughtException", catchIt);
  const others = process.listeners("uncaughtException").filter((listener) => listener !== catchIt);
  for (const listener of others) process.removeListener("uncaughtException", listener);
  played.relay.task("t", () => {
    throw new Error("mine");
  });
  played.relay.task("t", played.take);
  opened(played).deliver(subscribed("t", 0), update("t", 1, { a: 1 }));
  await soon();
  process.removeListener("uncaughtException", catchIt);
  for (const listener of others) process.on("uncaughtException", listener);
  assert.deepEqual(thrown, ["mine"]);
  assert.equal(played.updates.length, 1);
});

test("after close no callback is called", async () => {
  const played = play();
  played.relay.task("t", played.take);
  const socket = opened(played);
  socket.deliver(subscribed("t", 0));
  played.relay.close();
  socket.deliver(update("t", 1, { a: 1 }));
  socket.end(1006);
  await soon();
  assert.equal(played.sockets.length, 1);
  assert.deepEqual(played.updates, []);
  assert.throws(() => played.relay.general(played.take), /closed/);
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
  assert.throws(() => played.relay.task("", played.take), RangeError);
  assert.throws(() => played.relay.task("t"), TypeError);
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
