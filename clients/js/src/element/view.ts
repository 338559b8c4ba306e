// A task in words and numbers, for people: what the elements and the page show.

import type { Fields, FollowStatus, TaskState } from "../core/types.js";

export type Tone = "waiting" | "active" | "stalled" | "success" | "danger" | "neutral";

export interface TaskView {
  readonly title: string;
  readonly status: string;
  readonly tone: Tone;
  /** 0 to 100; null if the task does not say. */
  readonly percent: number | null;
  /** What it is about just now, or why it failed. */
  readonly detail: string;
  /** Why what is shown may not be current; empty if it is. */
  readonly connection: string;
}

const STATUSES: { readonly [status: string]: readonly [string, Tone] } = {
  pending: ["waiting", "waiting"],
  in_progress: ["in progress", "active"],
  completed: ["completed", "success"],
  failed: ["failed", "danger"],
  cancelled: ["cancelled", "neutral"],
};

const CONNECTIONS: { readonly [status in FollowStatus]: string } = {
  idle: "not followed",
  connecting: "connecting",
  catching_up: "catching up",
  live: "",
  complete: "",
  behind: "behind: the relay cannot reach Redis",
  reconnecting: "connection lost, reconnecting",
  offline: "offline",
  refused: "not available",
  closed: "connection closed",
};

/** A field as text; numbers too, and nothing else. */
export const text = (value: unknown): string => (typeof value === "string" ? value : typeof value === "number" ? String(value) : "");

export const connectionText = (status: FollowStatus): string => CONNECTIONS[status];

/** The status of a task in words, and its tone. A task in progress that nobody reports on has stalled. */
export function statusOf(data: Fields): readonly [string, Tone] {
  if (data["stalled"] === true && data["status"] === "in_progress") return ["stalled", "stalled"];
  const status = text(data["status"]);
  return Object.hasOwn(STATUSES, status) ? STATUSES[status]! : [status || "unknown", "neutral"];
}

export function percentOf(data: Fields): number | null {
  const { progress, status } = data as { progress?: unknown; status?: unknown };
  if (typeof progress === "number" && Number.isFinite(progress)) return Math.min(100, Math.max(0, progress));
  return status === "completed" ? 100 : null;
}

export function viewOf(id: string, { data, connection, error }: Pick<TaskState<any>, "data" | "connection" | "error">): TaskView {
  const isUnknown = Object.keys(data).length === 0;
  const [status, tone] = isUnknown ? [connection === "live" ? "no such task yet" : "", "neutral" as const] : statusOf(data);
  const stage = text(data["stage"]).replaceAll("_", " ");
  const message = text(data["status"]) === "failed" ? text(data["error"]) || text(data["message"]) : text(data["message"]);
  return {
    title: text(data["title"]) || id,
    status,
    tone,
    percent: percentOf(data),
    detail: message || stage,
    connection: error === null ? connectionText(connection) : `not available: ${error.message}`,
  };
}

/** A duration as people say it: "8 s", "3 min", "2 h 5 min", "4 d". */
export function duration(milliseconds: number): string {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 === 0 ? `${hours} h` : `${hours} h ${minutes % 60} min`;
  return `${Math.round(hours / 24)} d`;
}

/** A time in a task's fields, in milliseconds as `Date.now()`: ISO 8601, or seconds of the Unix epoch. */
export function timeOf(value: unknown): number | null {
  const time = typeof value === "number" ? (value > 1e11 ? value : value * 1000) : typeof value === "string" ? Date.parse(value) : NaN;
  return Number.isFinite(time) ? time : null;
}

/** The pace of one task: how long the rest takes if it goes on as it did. */
export class Pace {
  #samples: { time: number; percent: number }[] = [];

  /** Note how far the task is, at a time in milliseconds. */
  note(percent: number | null, time: number): void {
    const last = this.#samples.at(-1);
    if (percent === null || (last !== undefined && percent < last.percent)) this.#samples = []; // another attempt
    if (percent === null || percent === last?.percent) return;
    this.#samples.push({ time, percent });
    // Those of the last half minute, and one before.
    while (this.#samples.length > 2 && (time - this.#samples[1]!.time > 30_000 || this.#samples.length > 40)) this.#samples.shift();
  }

  /** Milliseconds that are left; null if there is no pace yet. */
  left(startedAt: number | null, now: number): number | null {
    const last = this.#samples.at(-1);
    if (last === undefined || last.percent <= 0 || last.percent >= 100) return null;
    const first = this.#samples[0]!;
    const seen = last.percent - first.percent > 2 ? (last.time - first.time) / (last.percent - first.percent) : null;
    const whole = startedAt !== null && last.time > startedAt ? (last.time - startedAt) / last.percent : null;
    const each = seen ?? whole;
    return each === null ? null : Math.max(0, each * (100 - last.percent) - (now - last.time));
  }
}
