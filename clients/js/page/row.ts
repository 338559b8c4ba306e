// One task of the list, as a row.

import { duration, type ListedTask, Pace, percentOf, statusOf, timeOf, viewOf } from "../src/element/index.js";
import { cut, h, setText } from "./dom.js";
import type { Row } from "./virtual_list.js";

export interface TaskRow extends Row {
  readonly link: HTMLAnchorElement;
  readonly title: HTMLElement;
  readonly detail: HTMLElement;
  readonly kind: HTMLElement;
  readonly status: HTMLElement;
  readonly bar: HTMLElement;
  readonly fill: HTMLElement;
  readonly left: HTMLElement;
  readonly age: HTMLElement;
}

export function makeRow(): TaskRow {
  const title = h("span", { class: "row-title", dir: "auto" });
  const detail = h("span", { class: "row-detail", dir: "auto" });
  const kind = h("span", { class: "row-kind" });
  const status = h("span", { class: "row-status" });
  const fill = h("span", { class: "fill" });
  const bar = h("span", { class: "row-bar", "aria-hidden": "true" }, fill);
  const left = h("span", { class: "row-left" });
  const age = h("span", { class: "row-age" });
  const link = h(
    "a",
    { class: "row-link" },
    h("span", { class: "row-main" }, title, detail),
    kind,
    h("span", { class: "row-progress" }, status, bar),
    left,
    age,
  );
  const node = h("div", { class: "row", role: "listitem" }, link);
  return { node, link, title, detail, kind, status, bar, fill, left, age };
}

export function showRow(row: TaskRow, task: ListedTask, href: string, isCurrent: boolean, pace: Pace | undefined, now: number): void {
  const { data } = task;
  const view = viewOf(task.id, { data, connection: "live", error: null });
  const [status, tone] = statusOf(data);
  const percent = percentOf(data);
  const isRunning = data.status === "in_progress";
  if (row.node.dataset["tone"] !== tone) row.node.dataset["tone"] = tone;
  if (row.link.getAttribute("href") !== href) row.link.setAttribute("href", href);
  if (isCurrent) row.link.setAttribute("aria-current", "true");
  else row.link.removeAttribute("aria-current");
  setText(row.title, cut(view.title));
  setText(row.detail, cut(view.detail));
  setText(row.kind, cut([data.kind, data.worker].filter((each) => typeof each === "string" && each !== "").join(" · "), 80));
  setText(row.status, isRunning && percent !== null ? `${tone === "stalled" ? "stalled at " : ""}${Math.floor(percent)} %` : status);
  row.bar.toggleAttribute("data-unknown", isRunning && percent === null);
  const rest = `${100 - (percent ?? 0)}%`;
  if (row.fill.style.getPropertyValue("--rest") !== rest) row.fill.style.setProperty("--rest", rest);
  const left = isRunning && tone !== "stalled" ? (pace?.left(timeOf(data["started_at"]), now) ?? null) : null;
  setText(row.left, left === null ? "" : left < 1500 ? "almost done" : `${duration(left)} left`);
  const born = timeOf(data["created_at"]) ?? timeOf(data["started_at"]) ?? (task.active || null);
  setText(row.age, born === null ? "" : duration(now - born));
}
