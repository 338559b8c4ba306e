// The log of one task: what Redis has of its past, by HTTP, and what comes, on the page's one connection.

import type { Fields, Position, RelayClient, Update } from "../src/element/index.js";
import type { Log } from "./log.js";

/** Updates in one answer of the relay, and requests, at most. */
const PAGE = 1000;
const MAX_REQUESTS = 20;

/** Live updates that wait for the history, at most. */
const MAX_WAITING = 5000;

interface HistoryPage {
  readonly next: string | null;
  readonly updates: readonly { readonly position: Position; readonly data: Fields }[];
}

/** Fill a log with a task's history, and go on with what comes. Returns a function that ends it. */
export function followLog(relay: RelayClient, task: string, log: Log, onChange: () => void): () => void {
  const over = new AbortController();
  /** Updates that came before the history did; null once it is in the log. */
  let waiting: Update[] | null = [];
  let reached: Position | null = null;

  const take = (update: Update, at: number | null): void => {
    const { position } = update;
    if (position !== null && reached !== null && position.epoch === reached.epoch && position.offset <= reached.offset) return;
    reached = position ?? reached;
    log.take(update, at);
  };

  const read = async (): Promise<void> => {
    let since = "";
    let state: Fields = {};
    for (let request = 0; request < MAX_REQUESTS; request += 1) {
      const path = `tasks/${encodeURIComponent(task)}/history?limit=${PAGE}${since}`;
      const signal = AbortSignal.any([over.signal, AbortSignal.timeout(15_000)]);
      const response = await relay.fetch(path, { signal, cache: "no-store" });
      if (!response.ok) return;
      const { updates, next }: HistoryPage = await response.json();
      for (const { position, data } of updates) {
        if (reached === null && position.offset > 1) log.isTruncated = true;
        state = { ...state, ...data };
        take({ type: "task_update", channel: `task:${task}`, taskId: task, data, state, position, isState: false }, null);
      }
      if (next === null) return;
      since = `&since=${encodeURIComponent(next)}`;
    }
  };

  const begin = (): void => {
    waiting = [];
    reached = null;
    read()
      .catch(() => {}) // the bar says that the relay cannot be reached
      .then(() => {
        if (over.signal.aborted || waiting === null) return;
        const now = Date.now();
        for (const update of waiting) take(update, update.isState ? null : now);
        waiting = null;
        onChange();
      });
  };

  const stop = relay.task(task).onUpdate((update) => {
    if (update.type === "reset") {
      log.take(update, null);
      if (waiting === null) begin();
      else waiting = [];
    } else if (waiting === null) {
      take(update, Date.now());
    } else if (waiting.length < MAX_WAITING) {
      waiting.push(update);
    }
    onChange();
  });
  begin();
  return () => {
    over.abort();
    stop();
  };
}
