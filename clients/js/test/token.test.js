// Tokens: shown first, renewed in time, and what happens when they are not accepted.
import assert from "node:assert/strict";
import { test } from "node:test";

import { play, soon, subscribed, update } from "./support/play.js";

/** Open the newest connection; the token is the first thing that is said. */
function authenticated(played, token) {
  const socket = played.sockets.at(-1);
  socket.open();
  assert.deepEqual(socket.sent.splice(0), [{ type: "authenticate", token }], "nothing else before the answer");
  socket.deliver({ type: "authenticated", expires_in: 60 });
  assert.deepEqual(socket.sent.shift(), { type: "unsubscribe", channel: "general" });
  socket.deliver({ type: "unsubscribed", channel: "general" });
  return socket;
}

test("a token is shown before anything else, and a new one for each connection", async () => {
  let number = 0;
  const played = play({ token: async () => `token ${++number}` });
  played.relay.task("t").onUpdate(played.take);
  await soon();
  const socket = authenticated(played, "token 1");
  socket.deliver(subscribed("t", 0), update("t", 1, { a: 1 }));
  socket.end(4401, "token expired");
  await soon();
  const next = authenticated(played, "token 2");
  assert.deepEqual(next.sent, [{ type: "subscribe", task_id: "t", position: { epoch: "e", offset: 1 }, deltas: true }]);
  assert.deepEqual(played.errors, []);
});

test("a token is renewed on the connection that there is", async () => {
  let number = 0;
  const played = play({ token: () => `token ${++number}` });
  played.relay.task("t").onUpdate(played.take);
  await soon();
  const socket = authenticated(played, "token 1");
  socket.deliver(subscribed("t", 0));
  socket.sent.length = 0;
  socket.deliver({ type: "token_expires", seconds: 30 });
  await soon();
  assert.deepEqual(socket.sent, [{ type: "authenticate", token: "token 2" }]);
  socket.deliver(update("t", 1, { a: 1 }), { type: "authenticated" }, update("t", 2, { a: 2 }));
  assert.deepEqual(played.updates.map(({ data }) => data.a), [1, 2]);
  assert.equal(played.sockets.length, 1);
});

test("a token that cannot be renewed, and one that is not enough, end the client", async () => {
  for (const [options, code, advice] of [[{ token: "fixed" }, 4401, /callback/], [{}, 4401, /pass a `token`/], [{ token: () => "t" }, 4403, /permit/]]) {
    const played = play(options);
    await soon();
    played.sockets[0].open();
    played.sockets[0].end(code, "because");
    await soon();
    assert.equal(played.sockets.length, 1);
    assert.match(played.errors[0].message, advice);
    assert.equal(played.changes.at(-1).status, "closed");
  }
});

test("a token callback that fails or hangs is called again", async (t) => {
  const answers = [() => Promise.reject(new Error("away")), () => new Promise(() => {}), () => 5, () => "good"];
  const played = play({ token: () => answers.shift()(), tokenTimeout: 5 });
  while (played.sockets.length === 0) await soon();
  authenticated(played, "good");
  const details = played.changes.map(({ detail }) => detail);
  assert.match(details[0], /away/);
  assert.match(details[1], /no token within 5 ms/);
  assert.match(details[2], /must return a text/);
  t.diagnostic(details.join("; "));
});

test("a subscription that the relay ends is reported, and the others go on", async () => {
  const played = play();
  for (const task of ["t", "u"]) played.relay.task(task).onUpdate(played.take);
  const [socket] = played.sockets;
  socket.open();
  socket.deliver({ type: "unsubscribed", channel: "general" }, subscribed("t", 0), subscribed("u", 0));
  socket.deliver({ type: "error", code: "forbidden", message: "not permitted", task_id: "t" });
  assert.deepEqual(played.errors.map(({ code, channel }) => [code, channel]), [["forbidden", "task:t"]]);
  socket.deliver(update("u", 1, { a: 1 }));
  assert.deepEqual(played.updates.map(({ taskId }) => taskId), ["u"]);
});
