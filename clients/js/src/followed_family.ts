// A task and its children that a client follows as one channel.

import { isFamily, parentOf } from "./core/channels.js";
import type { RelayError } from "./core/errors.js";
import { memberState } from "./core/family.js";
import type { Received } from "./core/received.js";
import type { ConnectionState, FamilyState, Fields, FollowStatus, Position, TaskState, Update } from "./core/types.js";
import { Followed, isTerminal, unknownTask } from "./followed.js";

/** The state of a family of which nothing is known. */
export const unknownFamily = (connection: FollowStatus, error: RelayError | null = null): FamilyState<any> => ({
  ...unknownTask(connection, error),
  children: new Map(),
  isTruncated: false,
});

export const followedOf = (name: string, position: Position | null, state: Fields): Followed =>
  isFamily(name) ? new FollowedFamily(name, position, state) : new Followed(name, position, state);

export class FollowedFamily extends Followed {
  readonly #parent: string;
  readonly #children = new Map<string, Fields>();
  /** What of them was shown, until they change. */
  #shown: ReadonlyMap<string, Fields> | null = null;
  #isTruncated = false;
  #isReported = true;

  constructor(name: string, position: Position | null, state: Fields) {
    super(name, position, state);
    this.#parent = parentOf(name);
    this.#takeAll(state);
  }

  override first(): Update<any>[] {
    return this.#states(this.position);
  }

  protected override updatesIn(update: Received): Update<any>[] {
    const { type, taskId, state: states, position, isTruncated = false, ...more } = update;
    this.#isReported = false;
    if (type === "task_states") {
      this.#takeAll(states, isTruncated);
      return this.#states(position);
    }
    if (type === "reset" || taskId === null) {
      this.#takeAll({});
      return [{ ...more, type: "reset", taskId, state: {}, position }];
    }
    const state = memberState(states, taskId);
    if (taskId !== this.#parent) {
      this.#children.set(taskId, state);
      this.#shown = null;
    }
    return [{ ...more, type, taskId, state, position }];
  }

  protected override isNews(former: TaskState<any>, known: TaskState<any>): boolean {
    const isNews = !this.#isReported || super.isNews(former, known);
    this.#isReported = true;
    return isNews;
  }

  protected override hasEnded(): boolean {
    const { status, children } = this.#own;
    if (!isTerminal(status)) return false;
    for (const child of this.#children.values()) if (!isTerminal(child["status"])) return false;
    // Of those that are not known, the parent says how many have ended.
    return !this.#isTruncated || children?.done >= children?.total;
  }

  protected override known(connection: ConnectionState): FamilyState<any> {
    const data = this.#own;
    const show = (): ReadonlyMap<string, Fields> => (this.#shown ??= new Map(this.#children));
    let shown: ReadonlyMap<string, Fields> | null = null;
    return {
      data,
      status: data["status"],
      connection: this.connectionStatus(connection),
      stalled: data["stalled"] === true,
      error: this.error,
      // There may be thousands: they are copied when somebody looks.
      get children() {
        return (shown ??= show());
      },
      isTruncated: this.#isTruncated,
    };
  }

  get #own(): Fields {
    return memberState(this.state, this.#parent);
  }

  #takeAll(states: Fields, isTruncated = false): void {
    this.#children.clear();
    for (const [taskId, state] of Object.entries(states)) if (taskId !== this.#parent) this.#children.set(taskId, state);
    this.#shown = null;
    this.#isTruncated = isTruncated;
  }

  /** All states, the parent's first. */
  #states(position: Position | null): Update<any>[] {
    const own = Object.hasOwn(this.state, this.#parent) ? ([[this.#parent, this.#own]] as const) : [];
    return [...own, ...this.#children].map(([taskId, state]) => {
      return { type: "task_update", channel: this.name, taskId, data: state, state, position, isState: true };
    });
  }
}
