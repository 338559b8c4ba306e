/** Where an update stands in its channel. */
export interface Position {
  epoch: string;
  /** Counts from 1 without holes within one epoch. */
  offset: number;
}

/** The fields of a task or of a general update: any JSON. */
export type Fields = { readonly [name: string]: any };

export interface Update {
  /** "reset": the relay could not resume, updates may be missing, and the state begins anew; the relay's state of the task follows. */
  type: "task_update" | "general_update" | "reset";
  /** "task:<id>" or "general". */
  channel: string;
  /** null for general updates. */
  taskId: string | null;
  /** The fields as they were sent; several updates come as one when the relay had to fold them. */
  data: Fields;
  /** Of a task: all fields so far, later ones over earlier ones. Not to be changed. */
  state: Fields;
  /** null for an update that Redis did not record. */
  position: Position | null;
  /** `data` is the folded state, which a new follower gets first. */
  isState: boolean;
}

export interface ConnectionChange {
  isUp: boolean;
  /** In words. */
  detail: string;
  /** Milliseconds until the next try; null when it came, and when it is not tried again. */
  retryIn: number | null;
}

/** What went wrong for good. */
export class RelayError extends Error {
  /** One of the relay's error codes, or a close code. */
  readonly code: string | number | null;
  /** The channel that is not served; null when it is the connection that has ended. */
  readonly channel: string | null;
}

/** Times in milliseconds. */
export interface RelayClientOptions {
  /** For Node before 22: that of the package ws. By default the global one. */
  WebSocket?: new (url: string) => any;
  /** By channel, where to go on, as `positions` of a former client had it. */
  positions?: { readonly [channel: string]: Position };
  /** The tasks' states there, as `states` had them; without them `Update.state` has only what came since. */
  states?: { readonly [channel: string]: Fields };
  /** From the first packet to the open WebSocket. Default 10000. */
  connectTimeout?: number;
  /** Silence after which the relay is asked whether it is there. Default 25000. */
  heartbeat?: number;
  /** How long its answer may take. Default 10000. */
  heartbeatTimeout?: number;
  /** The first delay before a new connection, at most; it doubles with each try, each drawn at random from 0 on. Default 1000. */
  retryBase?: number;
  /** The longest delay. Default 20000. */
  retryCap?: number;
  /** Called when the connection comes or goes. */
  onConnection?: (change: ConnectionChange) => void;
  /** Called when something has gone wrong for good. By default it is thrown where nobody catches it. */
  onError?: (error: RelayError) => void;
  /** Numbers from 0 to 1; default Math.random. */
  random?: () => number;
}

/**
 * A subscriber of one relay. It connects at once, and again whenever it must, until `close`.
 *
 * An error that a callback throws is thrown on where nobody catches it; the other callbacks are called all the same.
 */
export class RelayClient {
  /**
   * @param url of the relay's /ws/tasks: ws://, wss://, or in a browser a path, such as "/ws/tasks"
   * @throws TypeError for a URL or a WebSocket that cannot be; RangeError for times that are not positive
   */
  constructor(url: string | URL, options?: RelayClientOptions);

  /** Follow a task, beginning with its state. Returns a function that ends that. */
  task(taskId: string | number, onUpdate: (update: Update) => void): () => void;

  /** Follow the general updates. Returns a function that ends that. */
  general(onUpdate: (update: Update) => void): () => void;

  /** By channel, where each stands: what to give to the next client, to go on from here. */
  readonly positions: { [channel: string]: Position };

  /** By channel, the tasks' states at these positions. */
  readonly states: { [channel: string]: Fields };

  /** End it: no callback is called any more. */
  close(): void;
}
