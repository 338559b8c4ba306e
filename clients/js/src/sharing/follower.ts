// One channel of one tab, as the host of the shared connection sees it: what the tab has, and what it must be sent. Decisions only.

import { isFamily, taskIdOf } from "../core/channels.js";
import { type Received, stateUpdate } from "../core/received.js";
import type { Fields, Position } from "../core/types.js";

/** A channel as the shared connection has it. */
export interface Shared {
  readonly position: Position | null;
  readonly state: Fields;
  readonly isTruncated: boolean;
}

type Sent = Omit<Received, "state">;

/** The whole state of a channel. */
function whole(name: string, { state, isTruncated }: Shared, position: Position | null): Sent {
  const { state: _, ...sent } = stateUpdate(name, taskIdOf(name), state, position, isTruncated);
  return sent;
}

/**
 * What a tab has of a channel:
 *
 *   "nothing"   waits for the state, or where there is none, for the position
 *   "position"  has all up to that position
 *
 * The shared connection may stand elsewhere than the tab, since other tabs have other positions. So each update is compared.
 */
export class Follower {
  position: Position | null;
  needsState: boolean;

  constructor(position: Position | null) {
    this.position = position;
    this.needsState = position === null;
  }

  /** Whether the shared connection must begin again, from the tab's position, for the tab to miss nothing. */
  isBehind(shared: Position | null): boolean {
    const { position } = this;
    return position !== null && shared !== null && position.epoch === shared.epoch && position.offset < shared.offset;
  }

  /** What a tab gets that starts to follow a channel whose connection is live. */
  join(name: string, shared: Shared): Sent[] {
    const { position } = shared;
    const taskId = taskIdOf(name);
    const own = this.position;
    if (!this.needsState && own !== null && (position === null || own.epoch === position.epoch)) return [];
    const updates: Sent[] = [];
    if (own !== null) updates.push({ type: "reset", channel: name, taskId, data: {}, position: position ?? own, isState: false });
    this.needsState = false;
    this.position = position;
    if ((taskId !== null || isFamily(name)) && Object.keys(shared.state).length > 0) updates.push(whole(name, shared, position));
    return updates;
  }

  /**
   * What a tab gets when the shared connection has received an update.
   *
   * @param shared the channel after the update
   * @param since where it stood before
   */
  take(update: Received, shared: Shared, since: Position | null): Sent[] {
    const { state: _, ...sent } = update;
    const { position, type, isState } = update;
    if (type === "reset") {
      this.position = position;
      this.needsState = false;
      return [sent];
    }
    const own = this.position;
    if (isState) {
      if (own !== null && position !== null && own.epoch === position.epoch && own.offset > position.offset) return [];
      this.position = position;
      this.needsState = false;
      return [sent];
    }
    if (this.needsState) return this.join(update.channel, shared);
    if (position === null) return [sent];
    if (own !== null && own.epoch === position.epoch) {
      if (position.offset <= own.offset) return []; // received before, from another host or before a new beginning
      if (since !== null && since.epoch === own.epoch && since.offset !== own.offset && position.offset !== own.offset + 1) {
        // A coalesced update that begins before what the tab has: the state is the same, and nothing is added twice.
        this.position = position;
        return [whole(update.channel, shared, position)];
      }
    }
    this.position = position;
    return [sent];
  }
}
