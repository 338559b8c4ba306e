// Updates of one channel as an async iterator, with a bound on what waits.

import type { RelayError } from "./core/errors.js";
import type { Fields, Update } from "./core/types.js";

/**
 * Updates that may wait for a slow loop. Further ones of a task are merged into the last: none is lost, and memory has a bound. Other
 * updates cannot be merged: a "reset" says that some are missing.
 */
const MAX_WAITING = 1000;

/** An update of a task that says what two in a row said. What is appended is replaced by the whole. */
function merged(former: Update<Fields>, latter: Update<Fields>): Update<Fields> {
  const names = Object.keys({ ...former.data, ...latter.data });
  return { ...latter, data: Object.fromEntries(names.map((name) => [name, latter.state[name]])), isState: former.isState };
}

export class UpdateIterator implements AsyncIterableIterator<Update<any>, undefined> {
  #waiting: Update<Fields>[] = [];
  #wanted: { resolve(result: IteratorResult<Update<any>, undefined>): void; reject(error: unknown): void }[] = [];
  #isOver = false;
  #error: RelayError | null = null;
  #onEnd: () => void = () => {};

  /** `stop` is called when the loop ends. */
  onEnd(stop: () => void): void {
    this.#onEnd = stop;
  }

  push(update: Update<Fields>): void {
    if (this.#isOver) return;
    const next = this.#wanted.shift();
    if (next !== undefined) return next.resolve({ done: false, value: update });
    if (this.#waiting.length < MAX_WAITING) this.#waiting.push(update);
    else if (update.type === "reset") this.#waiting = [update]; // what came before no longer counts
    else if (update.taskId === null) this.#waiting = [{ ...update, type: "reset", data: {} }, update];
    else this.#merge(update);
  }

  /** Merge an update into the last one that waits of its task, unless that is before a reset. */
  #merge(update: Update<Fields>): void {
    let index = this.#waiting.length - 1;
    while (index >= 0 && this.#waiting[index]!.type !== "reset" && this.#waiting[index]!.taskId !== update.taskId) index -= 1;
    const isFirst = index < 0 || this.#waiting[index]!.type === "reset";
    this.#waiting.push(isFirst ? update : merged(this.#waiting.splice(index, 1)[0]!, update));
  }

  /** No more updates come; those that wait are still delivered. */
  finish(error: RelayError | null = null): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#error = error;
    this.#onEnd();
    for (const { resolve, reject } of this.#wanted.splice(0)) error === null ? resolve({ done: true, value: undefined }) : reject(error);
  }

  next(): Promise<IteratorResult<Update<any>, undefined>> {
    const update = this.#waiting.shift();
    if (update !== undefined) return Promise.resolve({ done: false, value: update });
    if (this.#isOver) return this.#error === null ? Promise.resolve({ done: true, value: undefined }) : Promise.reject(this.#error);
    return new Promise((resolve, reject) => this.#wanted.push({ resolve, reject }));
  }

  return(): Promise<IteratorResult<Update<any>, undefined>> {
    this.#waiting = [];
    this.finish();
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
