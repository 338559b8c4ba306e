// More tasks than the relay allows on one connection.
import assert from "node:assert/strict";
import { test } from "node:test";

import { subscribed, update, play, opened, untilLeft } from "./support/play.js";

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
    for (let number = 0; number < tasks; number += 1) played.relay.task(number).onUpdate(played.take);
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

test("beyond the limit there is room again when another task is left", async () => {
  const played = play();
  const stops = ["a", "b", "c"].map((task) => played.relay.task(task).onUpdate(played.take));
  const socket = opened(played);
  serve(socket, 2);
  assert.deepEqual(played.errors.map(({ channel }) => channel), ["task:c"]);
  played.relay.task("d").onUpdate(played.take);
  assert.deepEqual(played.errors.map(({ channel }) => channel), ["task:c", "task:d"]);
  assert.deepEqual(socket.sent, [], "the relay is not asked for what it will refuse");
  stops[0]();
  await untilLeft();
  played.relay.task("e").onUpdate(played.take);
  assert.deepEqual(socket.sent.map(({ type, task_id }) => [type, task_id]), [["unsubscribe", "a"], ["subscribe", "e"]]);
});
