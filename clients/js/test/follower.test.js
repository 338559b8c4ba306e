// What the host of a shared connection sends to a tab, whatever the two have: each update once and in order, or the state.
import assert from "node:assert/strict";
import { test } from "node:test";

import { Follower } from "../dist/sharing/follower.js";
import { at } from "./support/play.js";

/** As a client that gets what is appended: to it, an update that comes twice does harm. */
const fold = (state, { n, text }) => ({ n, text: typeof text === "string" ? text : (state.text ?? "") + text.$append });
const delta = (n) => ({ n, text: { $append: String.fromCharCode(97 + (n % 26)) } });
const stateAt = (n) => {
  let state = {};
  for (let each = 1; each <= n; each += 1) state = fold(state, delta(each));
  return state;
};
const update = (data, offset, isState = false) => ({ type: "task_update", channel: "task:t", taskId: "t", data, position: at(offset), isState });

/** Small random numbers that are the same in each run. */
function numbers(seed) {
  let value = seed;
  return (below) => {
    value = (value * 1103515245 + 12345) % 2 ** 31;
    return value % below;
  };
}

test("whatever the tab and the shared connection have, the tab ends with the same state", () => {
  for (let seed = 0; seed < 2000; seed += 1) {
    const below = numbers(seed);
    const top = 12;
    const own = below(10);
    const follower = new Follower(below(4) === 0 ? null : at(own));
    let state = follower.needsState ? {} : stateAt(own);
    let shared = { position: at(below(10)), state: {} };
    shared.state = stateAt(shared.position.offset);
    const apply = (sent) => {
      for (const each of sent) state = fold(each.isState ? {} : state, each.data);
    };
    // The host begins again where the tab is behind.
    if (follower.isBehind(shared.position)) shared = { position: at(own), state: stateAt(own) };
    else if (below(2) === 0) apply(follower.join("task:t", shared));
    while (shared.position.offset < top) {
      const since = shared.position;
      const offset = Math.min(top, since.offset + 1 + below(4)); // coalesced, where it is more than one
      const data = { n: offset, text: { $append: stateAt(offset).text.slice(stateAt(since.offset).text?.length ?? 0) } };
      shared = { position: at(offset), state: stateAt(offset) };
      const before = state.n ?? 0;
      apply(follower.take(update(data, offset), shared, since));
      assert.ok((state.n ?? 0) >= before, `no step back, seed ${seed}`);
    }
    assert.deepEqual(state, stateAt(top), `seed ${seed}`);
    assert.deepEqual(follower.position, at(top));
  }
});

test("a tab of another epoch is reset, and gets the state", () => {
  const follower = new Follower(at(5, "old"));
  const sent = follower.join("task:t", { position: at(2), state: { n: 2 } });
  assert.deepEqual(sent.map(({ type, isState }) => [type, isState]), [["reset", false], ["task_update", true]]);
  assert.deepEqual(follower.position, at(2));
});
