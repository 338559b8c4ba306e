// In which order tasks are shown: the newest activity on top, without rows that jump.

import { type ListedTask, statusOf } from "../src/element/index.js";

/**
 * Activity is that a task appears, or that its status changes: tasks that advance stay where they are. While the order is held,
 * because somebody points at a row or reads further down, nothing moves; what is new is counted and appears when it is let go.
 */
export class Order {
  #moved = new Map<string, { status: string; at: number }>();
  #shown: string[] = [];

  /**
   * The ids to show, in their order.
   *
   * @param tasks those that fit the filter
   * @param all every task of the list
   * @param isHeld whether the order must not change now
   */
  arrange(tasks: readonly ListedTask[], all: readonly ListedTask[], isHeld: boolean): { ids: readonly string[]; waiting: number } {
    const known = new Map<string, { status: string; at: number }>();
    for (const { id, data, active } of all) {
      const [status] = statusOf(data);
      const former = this.#moved.get(id);
      known.set(id, former !== undefined && former.status === status ? former : { status, at: active });
    }
    this.#moved = known;
    if (isHeld) {
      const shown = new Set(this.#shown);
      const waiting = tasks.filter(({ id }) => !shown.has(id)).length;
      // What no longer fits stays, until it is let go; what no longer exists does not.
      this.#shown = this.#shown.filter((id) => known.has(id));
      return { ids: this.#shown, waiting };
    }
    const at = (id: string): number => known.get(id)?.at ?? 0;
    this.#shown = tasks.map(({ id }) => id).sort((a, b) => at(b) - at(a) || (a < b ? -1 : 1));
    return { ids: this.#shown, waiting: 0 };
  }
}
