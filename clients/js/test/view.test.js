// Tasks in words and numbers, and the text of event streams.
import assert from "node:assert/strict";
import { test } from "node:test";

import { duration, Pace, percentOf, statusOf, timeOf, viewOf } from "../dist/element/index.js";
import { SseParser } from "../dist/engine/sse_parser.js";

test("the pace says how long the rest takes", () => {
  const pace = new Pace();
  assert.equal(pace.left(null, 0), null);
  pace.note(10, 1000);
  assert.equal(pace.left(0, 1000), 9000, "from the start, while only one step was seen");
  pace.note(20, 3000);
  assert.equal(pace.left(0, 3000), 16_000, "two seconds for each tenth");
  assert.equal(pace.left(0, 4000), 15_000);
  pace.note(5, 5000); // another attempt
  assert.equal(pace.left(null, 5000), null);
  pace.note(100, 6000);
  assert.equal(pace.left(0, 6000), null);
});

test("fields of any type do no harm", () => {
  for (const odd of [null, 5, [], {}, "", "toString", NaN, true]) {
    const data = { status: odd, title: odd, message: odd, progress: odd, error: odd, stage: odd, created_at: odd };
    const view = viewOf("id", { data, connection: "live", error: null });
    for (const name of ["title", "status", "detail", "connection"]) assert.equal(typeof view[name], "string");
    assert.ok(view.percent === null || (view.percent >= 0 && view.percent <= 100));
  }
  assert.equal(percentOf({ progress: 250 }), 100);
  assert.deepEqual(statusOf({ status: "in_progress", stalled: true }), ["stalled", "stalled"]);
  assert.deepEqual(statusOf({ status: "completed", stalled: true }), ["completed", "success"]);
});

test("durations and times", () => {
  assert.deepEqual([0, 59_400, 60_000, 7_500_000, 7_200_000, 4e8].map(duration), ["0 s", "59 s", "1 min", "2 h 5 min", "2 h", "5 d"]);
  assert.equal(timeOf("2026-11-26T18:00:00+00:00"), timeOf(1795716000));
  assert.equal(timeOf("yesterday"), null);
});

test("event streams are read whatever their pieces", () => {
  const stream = ':\n\nretry: 5\r\n\r\ndata: {"a":\ndata:1}\n\nevent: x\nid: 7\ndata: two\r\rdata: three\n\n';
  const whole = ['{"a":\n1}', "two", "three"];
  for (let size = 1; size <= stream.length; size += 1) {
    const parser = new SseParser();
    const events = [];
    for (let at = 0; at < stream.length; at += size) events.push(...parser.push(stream.slice(at, at + size)));
    assert.deepEqual(events, whole, `in pieces of ${size}`);
  }
  assert.throws(() => new SseParser().push("x".repeat(17 * 2 ** 20)), RangeError);
});
