// In which order tasks are shown, and how many there are of each: the newest activity on top, without rows that jump.

import { type ListedTask, statusOf, type Tone } from "../src/element/index.js";

interface Known {
  data: ListedTask["data"];
  status: string;
  tone: Tone;
  /** When its status last changed, or when it was last active before that was seen. */
  at: number;
  /** The turn in which the list last had it. */
  turn: number;
}

/**
 * Activity is that a task appears, or that its status changes: tasks that advance stay where they are. While the order is held,
 * because somebody points at a row or reads further down, nothing moves; what is new is counted and appears when it is let go.
 *
 * A list of ten thousand tasks changes ten times per second, and mostly by their progress: then nothing is sorted.
 */
export class Order {
  readonly #known = new Map<string, Known>();
  #turn = 0;
  #shown: readonly string[] = [];
  /** Those that do not fit into a held order. */
  #waiting = 0;
  #key = "";

  /** Take the list as it is now. Returns whether a task has come or gone, or a status has changed. */
  update(tasks: readonly ListedTask[]): boolean {
    this.#turn += 1;
    let hasChanged = tasks.length !== this.#known.size;
    for (const { id, data, active } of tasks) {
      const former = this.#known.get(id);
      if (former === undefined) {
        const [status, tone] = statusOf(data);
        this.#known.set(id, { data, status, tone, at: active, turn: this.#turn });
        hasChanged = true;
        continue;
      }
      former.turn = this.#turn;
      if (former.data === data) continue;
      former.data = data;
      const [status, tone] = statusOf(data);
      if (status === former.status) continue;
      Object.assign(former, { status, tone, at: active });
      hasChanged = true;
    }
    if (hasChanged) for (const [id, { turn }] of this.#known) if (turn !== this.#turn) this.#known.delete(id);
    return hasChanged;
  }

  toneOf(id: string): Tone {
    return this.#known.get(id)?.tone ?? "neutral";
  }

  statusOf(id: string): string {
    return this.#known.get(id)?.status ?? "";
  }

  /**
   * The ids to show, in their order.
   *
   * @param select those that fit the filter; asked only where the answer may be another one
   * @param key names the filter
   * @param hasChanged what `update` returned
   * @param isHeld whether the order must not change now
   */
  arrange(select: () => readonly ListedTask[], key: string, hasChanged: boolean, isHeld: boolean): { ids: readonly string[]; waiting: number } {
    const isSame = !hasChanged && key === this.#key;
    if (isSame && (isHeld || this.#waiting === 0)) return { ids: this.#shown, waiting: this.#waiting };
    const selected = select();
    if (isHeld && key === this.#key) {
      const shown = new Set(this.#shown);
      this.#waiting = selected.reduce((count, { id }) => count + (shown.has(id) ? 0 : 1), 0);
      // What no longer fits stays, until it is let go; what no longer exists does not.
      this.#shown = this.#shown.filter((id) => this.#known.has(id));
    } else {
      const at = selected.map(({ id }) => ({ id, at: this.#known.get(id)?.at ?? 0 }));
      at.sort((a, b) => b.at - a.at || (a.id < b.id ? -1 : 1));
      this.#shown = at.map(({ id }) => id);
      this.#waiting = 0;
    }
    this.#key = key;
    return { ids: this.#shown, waiting: this.#waiting };
  }
}
