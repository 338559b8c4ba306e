// What is known of a task beside its progress: facts, links, its parent and children.

import { duration, type Fields, type ListedTask, statusOf, text, timeOf, viewOf } from "../src/element/index.js";
import { cut, h } from "./dom.js";

const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

function time(value: unknown): HTMLElement | null {
  const at = timeOf(value);
  if (at === null) return null;
  return h("time", { datetime: new Date(at).toISOString() }, clock.format(at));
}

/** The address in a field, if it is one that a browser may open. */
function webAddress(value: unknown): URL | null {
  if (typeof value !== "string" || !/^https?:\/\//i.test(value)) return null;
  try {
    return new URL(value);
  } catch {
    return null;
  }
}

/** Links to what the task has made: its fields that are addresses. */
export function results(data: Fields): HTMLElement[] {
  return Object.entries(data).flatMap(([name, value]) => {
    const url = webAddress(value);
    if (url === null) return [];
    const shown = `${name.replace(/_url$/, "").replaceAll("_", " ")}: ${url.host}${url.pathname}`;
    return [h("a", { href: url.href, rel: "noopener noreferrer", target: "_blank" }, cut(shown, 120))];
  });
}

/** How many children a task has, and how they are: the relay counts them, also those that are in no list. */
function childCounts(counted: unknown): string {
  const { total, done, failed, stalled } = (counted ?? {}) as { [name: string]: unknown };
  if (typeof total !== "number" || typeof done !== "number") return "";
  const bad = ([["failed", failed], ["stalled", stalled]] as const).flatMap(([name, count]) => (typeof count === "number" && count > 0 ? [`${count} ${name}`] : []));
  return [`${done} of ${total} done`, ...bad].join(", ");
}

/** Rows of a description list. */
export function facts(task: ListedTask, linkTo: (id: string) => HTMLElement): HTMLElement[] {
  const { data } = task;
  const begun = timeOf(data["started_at"]) ?? timeOf(data["created_at"]);
  const ended = timeOf(data["completed_at"]);
  // The first run is nothing to tell of, unless it is known that there may be more.
  const [attempt, attempts] = [data["attempt"], text(data["attempts"])];
  const isRepeated = typeof attempt === "number" && (attempt > 1 || attempts !== "");
  const all: readonly (readonly [string, Node | string | null])[] = [
    ["Id", h("code", { dir: "auto" }, task.id)],
    ["Kind", text(data.kind)],
    ["Worker", text(data.worker)],
    ["Attempt", isRepeated ? `${attempt}${attempts === "" ? "" : ` of ${attempts}`}` : ""],
    ["Run", task.run !== undefined && task.run > 1 ? String(task.run) : ""],
    ["Created", time(data["created_at"])],
    ["Started", time(data["started_at"])],
    ["Ended", time(data["completed_at"])],
    ["Took", begun !== null && ended !== null ? duration(ended - begun) : ""],
    ["Owner", task.owner.join(", ")],
    ["Children", childCounts(data["children"])],
    ["Parent", task.parentId === null ? null : linkTo(task.parentId)],
  ];
  return all.flatMap(([name, value]) => {
    if (value === null || value === "") return [];
    return [h("dt", {}, name), h("dd", { dir: "auto" }, typeof value === "string" ? cut(value) : value)];
  });
}

/** The children of a task that are in the list, as links with their status. */
export function children(id: string, tasks: readonly ListedTask[], linkTo: (id: string, title: string) => HTMLElement): HTMLElement[] {
  return tasks
    .filter(({ parentId }) => parentId === id)
    .slice(0, 100)
    .map((child) => {
      const [status, tone] = statusOf(child.data);
      const { title, percent } = viewOf(child.id, { data: child.data, connection: "live", error: null });
      const isRunning = child.data.status === "in_progress" && percent !== null;
      const state = isRunning ? `${tone === "stalled" ? "stalled at " : ""}${Math.floor(percent)} %` : status;
      return h("li", { "data-tone": tone }, linkTo(child.id, title), h("span", { class: "child-status" }, state));
    });
}
