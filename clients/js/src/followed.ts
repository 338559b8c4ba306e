// One channel that a client follows: what is known of it, and who wants to know.

import type { ChannelStatus } from "./core/channel_state.js";
import { taskIdOf, TASK_PREFIX } from "./core/channels.js";
import type { RelayError } from "./core/errors.js";
import type { Received } from "./core/received.js";
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
  readonly observable: Observable<TaskState<any>> = new Observable(unknownTask("connecting"));
  readonly listeners = new Set<(update: Update<any>) => void>();
  readonly iterators = new Set<UpdateIterator>();
  position: Position | null;
  state: Fields;
  status: ChannelStatus = "connecting";
  error: RelayError | null = null;
  /** Set while nobody follows it any more, shortly before it is left. */
  leaving: ReturnType<typeof setTimeout> | undefined;

  constructor(name: string, position: Position | null, state: Fields) {
    this.name = name;
    this.position = position;
    this.state = state;
  }

  /** Show what is known from the beginning. */
  begin(connection: ConnectionState): this {
    this.observable.value = this.known(connection);
    return this;
  }

  get isWanted(): boolean {
    return this.listeners.size > 0 || this.iterators.size > 0 || this.observable.isObserved;
  }

  /** Take an update, and pass it on. */
  take(update: Received, connection: ConnectionState): void {
    // After a reset the state may follow: until then the next connection must ask for it again.
    if (update.position !== null && update.type !== "reset") this.position = update.position;
    this.state = update.state;
    for (const each of this.updatesIn(update)) {
      for (const listener of [...this.listeners]) if (this.listeners.has(listener)) call(listener, each);
      for (const iterator of this.iterators) iterator.push(each);
    }
    if (this.hasEnded()) for (const iterator of [...this.iterators]) iterator.finish();
    this.refresh(connection);
  }

  /** The connection or the channel's status has changed. */
  refresh(connection: ConnectionState): void {
    const known = this.known(connection);
    const former = this.observable.value;
    if (this.isNews(former, known)) this.observable.set(known);
  }

  /** A follower that comes later, or a stored state: the updates with which it begins; none if nothing is known yet. */
  first(): Update<any>[] {
    const { name, state, position } = this;
    const taskId = taskIdOf(name);
    if (taskId === null || Object.keys(state).length === 0) return [];
    return [{ type: "task_update", channel: name, taskId, data: state, state, position, isState: true }];
  }

  /** What followers are to see of something that was received. */
  protected updatesIn(update: Received): Update<any>[] {
    return [update as Update<any>];
  }

  protected isNews(former: TaskState<any>, known: TaskState<any>): boolean {
    return former.data !== known.data || former.connection !== known.connection || former.error !== known.error;
  }

  /** Whether no more is expected. */
  protected hasEnded(): boolean {
    return this.name.startsWith(TASK_PREFIX) && isTerminal(this.state["status"]);
  }

  protected known(connection: ConnectionState): TaskState<any> {
    const { state, error } = this;
    const { status } = state as { status?: TaskState["status"] };
    return { data: state, status, connection: this.connectionStatus(connection), stalled: state["stalled"] === true, error };
  }

  protected connectionStatus({ status, isRedisAvailable }: ConnectionState): FollowStatus {
    if (this.error !== null) return "refused";
    if (status !== "live") return status;
    if (!isRedisAvailable) return "behind";
    return this.status === "live" && this.hasEnded() ? "complete" : this.status;
  }
}
