// Which tasks are shown, and how many there are of each.

import { type ListedTask, matches, statusOf, type Tone } from "../src/element/index.js";

export interface Filter {
  readonly name: string;
  readonly label: string;
  readonly tone: Tone;
  fits(task: ListedTask): boolean;
}

const byTone = (name: string, label: string, tone: Tone): Filter => ({ name, label, tone, fits: ({ data }) => statusOf(data)[1] === tone });

/** In the order in which people ask: what went wrong comes first. */
export const FILTERS: readonly Filter[] = [
  { name: "all", label: "All", tone: "neutral", fits: () => true },
  byTone("failed", "Failed", "danger"),
  byTone("stalled", "Stalled", "stalled"),
  byTone("running", "In progress", "active"),
  byTone("waiting", "Waiting", "waiting"),
  byTone("completed", "Completed", "success"),
  { name: "cancelled", label: "Cancelled", tone: "neutral", fits: ({ data }) => data.status === "cancelled" },
];

export const filterNamed = (name: string): Filter => FILTERS.find((filter) => filter.name === name) ?? FILTERS[0]!;

export const counts = (tasks: readonly ListedTask[]): readonly number[] => FILTERS.map((filter) => tasks.filter((task) => filter.fits(task)).length);

export const selected = (tasks: readonly ListedTask[], show: string, search: string): ListedTask[] => {
  const filter = filterNamed(show);
  return tasks.filter((task) => filter.fits(task) && (search === "" || matches(task.id, task.data, search)));
};
