// When a connection is opened, given up, and opened again.
import assert from "node:assert/strict";
import { test } from "node:test";

import { RelayError } from "../dist/index.js";
import { mockedClock, untilNext } from "./support/clock.js";
import { PONG, subscribed, play, opened, soon } from "./support/play.js";

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
  for (const code of [1002, 1003, 1007, 1008, 1009, 4403]) {
    const played = play();
    opened(played).end(code, "because");
    await soon();
    assert.equal(played.sockets.length, 1);
    assert.ok(played.errors[0] instanceof RelayError);
    assert.equal(played.errors[0].code, code);
    assert.throws(() => played.relay.task("t").onUpdate(played.take), RelayError);
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
  const pass = mockedClock(t);
  let drawn = 1;
  const played = play({ random: () => drawn, retryBase: 100, retryCap: 400 });
  for (const [delay, draw] of [[100, 1], [200, 1], [300, 1], [400, 1], [200, 0.5], [400, 1]]) {
    drawn = draw;
    played.sockets.at(-1).end(1006);
    assert.ok(Math.abs(played.changes.at(-1).retryAt - Date.now() - delay) < 1000);
    assert.equal(untilNext(played.sockets, pass), delay);
  }
});

test("after a short outage nobody waits long, however often a connection was tried", (t) => {
  const pass = mockedClock(t);
  let drawn = 0;
  const played = play({ random: () => drawn });
  const socket = opened(played);
  pass(2_000); // a good connection: the delay is the shortest again
  socket.end(1006);
  for (let attempt = 0; attempt < 10; attempt += 1) {
    pass(150);
    played.sockets.at(-1).end(1006);
  }
  drawn = 1;
  pass(500);
  played.sockets.at(-1).end(1006);
  assert.equal(untilNext(played.sockets, pass), 2_000, "as long as the outage so far");
});

test("a connection that is lost at once was not a good one", (t) => {
  const pass = mockedClock(t);
  const played = play({ random: () => 1 });
  for (const delay of [500, 1_000, 1_500 + 3 * 100]) {
    const socket = played.sockets.at(-1);
    socket.open();
    pass(100);
    socket.end(1006);
    assert.equal(untilNext(played.sockets, pass), delay);
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
    played.relay.task("t").onUpdate(played.take);
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
