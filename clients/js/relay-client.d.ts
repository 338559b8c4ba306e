/** Where an update stands in its channel. */
export interface Position {
  epoch: string;
  /** Counts from 1 without holes within one epoch. */
  offset: number;
}

/** Any JSON object. */
export type Fields = { readonly [name: string]: any };

/** The fields of a task that are known; services may publish further ones. */
export interface TaskFields extends Fields {
  readonly status?: "pending" | "in_progress" | "completed" | "failed" | "cancelled";
  readonly stage?: string;
  readonly message?: string;
  /** 0 to 100. */
  readonly progress?: number;
  readonly error?: string;
  /** In progress, and silent for longer than RELAY_TASK_STALL_SECONDS. */
  readonly stalled?: boolean;
}

/** `F`: the fields that services publish. An update has some of them. */
export interface Update<F extends object = TaskFields> {
  /** "reset": the relay could not resume, updates may be missing, and the state starts empty; if the task has one, it follows. */
  type: "task_update" | "general_update" | "reset";
  /** "task:<id>" or "general". */
  channel: string;
  /** null for general updates. */
  taskId: string | null;
  /** The fields as published. A slow client may get several updates of a task merged into one. */
  data: Readonly<Partial<F>>;
  /** All fields of the task so far, later values over earlier ones. Do not modify it. */
  state: Readonly<Partial<F>>;
  /** null for an update that Redis did not persist. */
  position: Position | null;
  /** `data` is the folded state, which a new subscriber of a task gets first. */
  isState: boolean;
}

export interface ConnectionChange {
  isUp: boolean;
  /** Whether the relay can serve subscriptions, as far as it has answered. */
  isRedisAvailable: boolean;
  /** The reason, for people. */
  detail: string;
  /** Milliseconds until the next attempt; null if the connection is open, or if there will be no further attempt. */
  retryIn: number | null;
}

/** An error after which the relay does not deliver a channel, or nothing at all. */
export class RelayError extends Error {
  /** One of the relay's error codes, or a close code. "too_many_subscriptions": beyond RELAY_MAX_SUBSCRIPTIONS (256). */
  readonly code: string | number | null;
  /** The channel that is not delivered; null if the whole connection has ended. */
  readonly channel: string | null;
}

/** Times in milliseconds. */
export interface RelayClientOptions {
  /** For Node before 22: that of the package ws. By default the global one. */
  WebSocket?: new (url: string) => any;
  /** By channel, where to resume: `positions` of an earlier client. */
  positions?: { readonly [channel: string]: Position };
  /** The states at these positions: `states` of an earlier client. Without them `Update.state` has only the fields that came since. */
  states?: { readonly [channel: string]: Fields };
  /** From the first packet to the open WebSocket. Default 10000. */
  connectTimeout?: number;
  /** After this long without a message from the relay, it is sent a ping. Default 25000. */
  heartbeat?: number;
  /** How long the answer to a ping may take. Default 10000. */
  heartbeatTimeout?: number;
  /** Upper bound of the first delay before reconnecting. It doubles with each attempt; the delay is uniform from 0. Default 1000. */
  retryBase?: number;
  /** Upper bound of every delay. Default 20000. */
  retryCap?: number;
  /** Called when the connection is opened or lost. */
  onConnection?: (change: ConnectionChange) => void;
  /** Called when a channel cannot be followed, or the relay does not accept this client. By default it is thrown uncaught. */
  onError?: (error: RelayError) => void;
  /** Random numbers from 0 to 1. Default Math.random. */
  random?: () => number;
}

/**
 * A subscriber of one relay. It connects at once, and again whenever the connection is lost, until `close`.
 *
 * If a callback throws, the error is thrown uncaught, and the other callbacks are called all the same.
 *
 * `Task` and `General` are the fields of tasks and of general updates; each call may name others.
 */
export class RelayClient<Task extends object = TaskFields, General extends object = Fields> {
  /**
   * @param url of the relay's WebSocket: wss://host/ws/tasks, https://host, or in a browser a path, such as "/ws/tasks"
   * @throws TypeError if the URL is wrong or there is no WebSocket; RangeError if a time is not positive
   */
  constructor(url: string | URL, options?: RelayClientOptions);

  /** Follow a task, beginning with its state. Returns a function that stops it. */
  task<F extends object = Task>(taskId: string | number, onUpdate: (update: Update<F>) => void): () => void;

  /** Follow the general updates. Returns a function that stops it. */
  general<F extends object = General>(onUpdate: (update: Update<F>) => void): () => void;

  /** By channel, the position of the last update. Give it to the next client to resume from here. */
  readonly positions: { [channel: string]: Position };

  /** By channel, the states of the tasks at these positions. */
  readonly states: { [channel: string]: Fields };

  /** Close the connection: no callback is called any more. */
  close(): void;
}
