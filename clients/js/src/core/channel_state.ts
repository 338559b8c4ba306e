// One channel of one subscriber: how far it has been received.

import { isFamily } from "./channels.js";
import { fold } from "./fold.js";
import type { Fields, Position } from "./types.js";

export type Phase = "unsubscribed" | "requested" | "awaiting state" | "live";

/** How current a channel is, as far as the engine knows. */
export type ChannelStatus = "connecting" | "catching_up" | "live" | "behind";

/**
 * One channel. Its phase on the present connection:
 *
 *   "unsubscribed"  --request sent-->  "requested"  --subscribed, nothing follows-->  "live"
 *                                                   --subscribed, state follows-->    "awaiting state"  --task_update-->  "live"
 *
 * An unrequested "subscribed" is a reset, and leads to "live" or "awaiting state" again. A lost connection leads back to
 * "unsubscribed"; from "awaiting state" it also discards the position, so that the next connection receives the state after all.
 */
export class ChannelState {
  readonly name: string;
  phase: Phase = "unsubscribed";
  /** Of the last update, to resume from. */
  position: Position | null;
  /** In "awaiting state", the position of the state. */
  awaited: Position | null = null;
  /** Where the channel stood when the relay answered: until then, missed updates are on their way. */
  top: Position | null = null;
  state: Fields;
  readonly isFamily: boolean;
  /** Of a family: the relay has not sent the states of all its tasks. */
  isTruncated = false;
  /** Tasks of a family whose states the relay has not sent. */
  readonly unknown = new Set<string>();
  /** The status that was last reported. */
  reported: ChannelStatus = "connecting";

  constructor(name: string, position: Position | null, state: Fields) {
    this.name = name;
    this.isFamily = isFamily(name);
    this.position = position;
    this.state = this.isFamily ? fold({}, state) : state; // it is changed in place
  }

  get isConfirmed(): boolean {
    return this.phase === "live" || this.phase === "awaiting state";
  }

  get status(): ChannelStatus {
    if (this.phase === "awaiting state") return "catching_up";
    if (this.phase !== "live") return "connecting";
    const { position, top } = this;
    return top !== null && position !== null && position.epoch === top.epoch && position.offset < top.offset ? "catching_up" : "live";
  }

  confirm(position: Position, stateFollows: boolean, isRecovered: boolean): void {
    this.phase = "live";
    this.top = position;
    if (isRecovered) return;
    this.state = {};
    this.isTruncated = false;
    this.unknown.clear();
    if (stateFollows) [this.phase, this.awaited] = ["awaiting state", position];
    else [this.position, this.awaited] = [position, null];
  }

  disconnect(): void {
    if (this.phase === "awaiting state") this.position = this.awaited = null;
    this.phase = "unsubscribed";
  }
}
