// Fields that grow: deltas on the wire, whole values in updates, and the pieces of a text.
import assert from "node:assert/strict";
import { test } from "node:test";

import { opened, play, soon, STATE, subscribed, update } from "./support/play.js";

const append = (position, text) => update("t", position, { text: { $append: text } });

test("what is appended arrives as whole values, each once", () => {
  const played = play();
  played.relay.task("t").onUpdate(played.take);
  const socket = opened(played);
  socket.deliver(subscribed("t", 1, STATE), update("t", 1, { text: "a", list: [1], n: 1 }));
  const more = update("t", 2, { text: { $append: "b" }, list: { $append: [2] }, n: { $append: 2 }, set: { $set: { $append: 1 } } });
  socket.deliver(more, more, update("t", 3, { text: { $append: "c", other: 1 } }));
  assert.deepEqual(
    played.updates.map(({ data }) => data),
    [
      { text: "a", list: [1], n: 1 },
      { text: "ab", list: [1, 2], n: 3, set: { $append: 1 } },
      { text: { $append: "c", other: 1 } },
    ],
  );
});

test("an update that does not belong to the state is not believed", async () => {
  const played = play();
  played.relay.task("t").onUpdate(played.take);
  opened(played).deliver(subscribed("t", 1, STATE), update("t", 1, { text: 1 }), append(2, "b"));
  await soon();
  assert.deepEqual(played.relay.states, { "task:t": { text: 1 } });
  assert.equal(played.sockets.length, 2, "it connects again");
});

test("a stream has each piece once, over a reconnection and a reset, and ends with the task", async () => {
  const played = play();
  const pieces = [];
  const loop = (async () => {
    for await (const { text, isRestart } of played.relay.task("t").stream("text")) pieces.push([text, isRestart]);
  })();
  const socket = opened(played);
  socket.deliver(subscribed("t", 1, STATE), update("t", 1, { text: "on" }), append(2, "ce"), update("t", 3, { n: 1 }));
  socket.end(1006);
  await soon();
  const [, next] = played.sockets;
  next.open();
  next.deliver({ type: "unsubscribed", channel: "general" }, subscribed("t", 4, { recovered: true }), append(4, " upon"));
  next.deliver(subscribed("t", 9, { recovered: false, state: true }), update("t", 9, { text: "once upon a" }));
  next.deliver(update("t", 10, { text: "new" }), update("t", 11, { text: { $append: "er" }, status: "completed" }));
  await loop;
  assert.deepEqual(pieces, [["on", false], ["ce", false], [" upon", false], [" a", false], ["new", true], ["er", false]]);
});

test("a page that was reloaded gets the rest of a text", async () => {
  for (const known of ["once", "never"]) {
    const played = play();
    const stream = played.relay.task("t").stream("text", { known });
    const first = stream.next();
    opened(played).deliver(subscribed("t", 7, STATE), update("t", 7, { text: "once upon" }));
    const { value } = await first;
    assert.deepEqual([`${value}`, value.isRestart], known === "once" ? [" upon", false] : ["once upon", true]);
    await stream.return();
    played.relay.close();
  }
});
