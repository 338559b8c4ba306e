// One channel that a client follows: what is known of it, and who wants to know.

import type { ChannelStatus } from "./core/channel_state.js";
import { taskIdOf, TASK_PREFIX } from "./core/channels.js";
import type { RelayError } from "./core/errors.js";
import type { ConnectionState, Fields, FollowStatus, Position, TaskState, Update } from "./core/types.js";
import { call, Observable } from "./observers.js";
import type { UpdateIterator } from "./update_iterator.js";

const TERMINAL = new Set(["completed", "failed", "cancelled"]);

export const isTerminal = (status: unknown): boolean => typeof status === "string" && TERMINAL.has(status);

/** The state of a task of which nothing is known. */
export const unknownTask = (connection: FollowStatus, error: RelayError | null = null): TaskState<any> => ({
  data: {},
  status: undefined,
  connection,
  stalled: false,
  error,
});

export class Followed {
  readonly name: string;
  readonly observable: Observable<TaskState<any>>;
  readonly listeners = new Set<(update: Update<any>) => void>();
  readonly iterators = new Set<UpdateIterator>();
  position: Position | null;
  state: Fields;
  status: ChannelStatus = "connecting";
  error: RelayError | null = null;
  /** Set while nobody follows it any more, shortly before it is left. */
  leaving: ReturnType<typeof setTimeout> | undefined;

  constructor(name: string, position: Position | null, state: Fields, connection: ConnectionState) {
    this.name = name;
    this.position = position;
    this.state = state;
    this.observable = new Observable(this.#task(connection));
  }

  get isWanted(): boolean {
    return this.listeners.size > 0 || this.iterators.size > 0 || this.observable.isObserved;
  }

  /** Take an update, and pass it on. */
  take(update: Update<Fields>, connection: ConnectionState): void {
    // After a reset the state may follow: until then the next connection must ask for it again.
    if (update.position !== null && update.type !== "reset") this.position = update.position;
    this.state = update.state;
    for (const listener of [...this.listeners]) if (this.listeners.has(listener)) call(listener, update);
    for (const iterator of this.iterators) {
      iterator.push(update);
      if (this.name.startsWith(TASK_PREFIX) && isTerminal(update.state["status"])) iterator.finish();
    }
    this.refresh(connection);
  }

  /** The connection or the channel's status has changed. */
  refresh(connection: ConnectionState): void {
    const task = this.#task(connection);
    const former = this.observable.value;
    if (former.data === task.data && former.connection === task.connection && former.error === task.error) return;
    this.observable.set(task);
  }

  /** A follower that comes later, or a stored state: the update with which it begins; null if nothing is known yet. */
  first(): Update<any> | null {
    const { name, state, position } = this;
    const taskId = taskIdOf(name);
    if (taskId === null || Object.keys(state).length === 0) return null;
    return { type: "task_update", channel: name, taskId, data: state, state, position, isState: true };
  }

  #task(connection: ConnectionState): TaskState<any> {
    const { state, error } = this;
    const { status } = state as { status?: TaskState["status"] };
    return { data: state, status, connection: this.#connection(connection), stalled: state["stalled"] === true, error };
  }

  #connection({ status, isRedisAvailable }: ConnectionState): FollowStatus {
    if (this.error !== null) return "refused";
    if (status !== "live") return status;
    if (!isRedisAvailable) return "behind";
    return this.status === "live" && isTerminal(this.state["status"]) ? "complete" : this.status;
  }
}
