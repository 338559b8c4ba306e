// Which tasks are shown, and how many there are of each.

import { type ListedTask, matches, type Tone } from "../src/element/index.js";
import type { Order } from "./order.js";

export interface Filter {
  readonly name: string;
  readonly label: string;
  readonly tone: Tone;
}

/** In the order in which people ask: what went wrong comes first. */
export const FILTERS: readonly Filter[] = [
  { name: "all", label: "All", tone: "neutral" },
  { name: "failed", label: "Failed", tone: "danger" },
  { name: "stalled", label: "Stalled", tone: "stalled" },
  { name: "running", label: "In progress", tone: "active" },
  { name: "waiting", label: "Waiting", tone: "waiting" },
  { name: "completed", label: "Completed", tone: "success" },
  { name: "cancelled", label: "Cancelled", tone: "neutral" },
];

const byTone = new Map(FILTERS.slice(1, -1).map(({ name, tone }) => [tone, name]));

export const filterNamed = (name: string): Filter => FILTERS.find((filter) => filter.name === name) ?? FILTERS[0]!;

/** The filter that a task fits, beside "all"; empty if its status is none that is known. */
function filterOf(id: string, order: Order): string {
  return byTone.get(order.toneOf(id)) ?? (order.statusOf(id) === "cancelled" ? "cancelled" : "");
}

/** How many tasks fit each filter. */
export function counts(tasks: readonly ListedTask[], order: Order): readonly number[] {
  const found = new Map<string, number>();
  for (const { id } of tasks) {
    const name = filterOf(id, order);
    found.set(name, (found.get(name) ?? 0) + 1);
  }
  return FILTERS.map(({ name }) => (name === "all" ? tasks.length : (found.get(name) ?? 0)));
}

export function selected(tasks: readonly ListedTask[], order: Order, show: string, search: string): readonly ListedTask[] {
  const { name } = filterNamed(show);
  if (name === "all" && search === "") return tasks;
  return tasks.filter(({ id, data }) => (name === "all" || filterOf(id, order) === name) && (search === "" || matches(id, data, search)));
}
