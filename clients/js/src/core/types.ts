// The public types: what is followed, what arrives, and how the connection is.

import type { RelayError } from "./errors.js";

/** Where an update stands in its channel. */
export interface Position {
  readonly epoch: string;
  /** Counts from 1 without gaps within one epoch. */
  readonly offset: number;
}

/** Any JSON object. */
export type Fields = { readonly [name: string]: any };

export type TaskStatus = "pending" | "in_progress" | "completed" | "failed" | "cancelled";

/** The fields of a task that are known; services may publish further ones. */
export interface TaskFields extends Fields {
  readonly status?: TaskStatus;
  readonly kind?: string;
  readonly title?: string;
  readonly stage?: string;
  readonly message?: string;
  /** 0 to 100. */
  readonly progress?: number;
  readonly error?: string;
  readonly worker?: string;
  /** In progress, and silent for longer than RELAY_TASK_STALL_SECONDS. */
  readonly stalled?: boolean;
}

/** `F`: the fields that services publish. An update has some of them. */
export interface Update<F extends object = TaskFields> {
  /** "reset": the relay could not resume, updates may be missing, and the state starts empty; if the task has one, it follows. */
  readonly type: "task_update" | "general_update" | "channel_update" | "reset";
  /** "task:<id>", "family:<id>", "general" or "channel:<name>". */
  readonly channel: string;
  /** The task that the update is of; null for general updates, extra channels, and the reset of a family. */
  readonly taskId: string | null;
  /** The fields as published. A slow client may get several updates of a task merged into one. */
  readonly data: Readonly<Partial<F>>;
  /** All fields of the task so far, later values over earlier ones. */
  readonly state: Readonly<Partial<F>>;
  /** null for an update that Redis did not persist. */
  readonly position: Position | null;
  /** `data` is the folded state, which a new subscriber of a task gets first; of a family, one for each of its tasks. */
  readonly isState: boolean;
}

/**
 * How current a channel is:
 *
 * - "idle": nobody follows it
 * - "connecting": the relay has not answered yet
 * - "catching_up": missed updates, or the state, are on their way
 * - "live": every update arrives as it is published
 * - "complete": the task, of a family also its children, has ended, and all of it has arrived
 * - "behind": the relay cannot reach Redis, so what is shown may be old
 * - "reconnecting": the connection is lost; see `ConnectionState.retryAt`
 * - "offline": the browser has no network
 * - "refused": the relay does not deliver it; see `error`
 * - "closed": this client was closed, or the relay does not accept it
 */
export type FollowStatus =
  | "idle"
  | "connecting"
  | "catching_up"
  | "live"
  | "complete"
  | "behind"
  | "reconnecting"
  | "offline"
  | "refused"
  | "closed";

/** The connection to the relay. Each change makes a new object. */
export interface ConnectionState {
  readonly status: "connecting" | "live" | "reconnecting" | "offline" | "closed";
  /** How it is connected; null while it is not. "events" where WebSockets do not get through. */
  readonly transport: "websocket" | "events" | null;
  /** Whether the relay can serve subscriptions, as far as it has answered. */
  readonly isRedisAvailable: boolean;
  /** When the next attempt is made, in milliseconds as `Date.now()`; null if none is planned. */
  readonly retryAt: number | null;
  /** The reason, for people. */
  readonly detail: string;
}

/** A task as it is known now. Each change makes a new object; do not modify it. */
export interface TaskState<F extends object = TaskFields> {
  readonly data: Readonly<Partial<F>>;
  readonly status: TaskStatus | undefined;
  readonly connection: FollowStatus;
  readonly stalled: boolean;
  /** Why the relay does not deliver the task; null if it does. */
  readonly error: RelayError | null;
}

/** A task and its children as they are known now. `data`, `status` and `stalled` are the task's own. */
export interface FamilyState<F extends object = TaskFields> extends TaskState<F> {
  /** What is known of each child, by its id. Each change makes a new map. */
  readonly children: ReadonlyMap<string, Readonly<Partial<F>>>;
  /** There are more children than the relay sends states of: 1,000, those that were active last. Updates come from all of them. */
  readonly isTruncated: boolean;
}

/** A task in a list. */
export interface ListedTask<F extends object = TaskFields> {
  readonly id: string;
  readonly data: Readonly<Partial<F>>;
  /** When it was last active, in milliseconds as `Date.now()`. */
  readonly active: number;
  readonly owner: readonly string[];
  readonly parentId: string | null;
  /** The how-manieth run of its id it is, from 1; undefined until the relay has listed it. */
  readonly run?: number;
}

/** Which tasks a list has. */
export interface TaskFilter {
  readonly status?: TaskStatus | readonly TaskStatus[];
  readonly owner?: string;
  readonly kind?: string;
  readonly parentId?: string;
  /** Words that must be in its id or one of its texts. */
  readonly text?: string;
  /** Most tasks to load. Default 1000. */
  readonly limit?: number;
}

/** A list as it is known now: the most recently active tasks first. Each change makes a new object. */
export interface TaskListState<F extends object = TaskFields> {
  readonly tasks: readonly ListedTask<F>[];
  /** The first answer has not arrived yet. */
  readonly isLoading: boolean;
  /** The relay has more tasks than the list's limit. */
  readonly isTruncated: boolean;
  readonly connection: ConnectionState;
  /** Why the list could not be read; null after the next success. */
  readonly error: RelayError | null;
}

/** Returns a token that the relay accepts; called for each connection, and before the token in use expires. */
export type TokenSource = string | (() => string | Promise<string>);
