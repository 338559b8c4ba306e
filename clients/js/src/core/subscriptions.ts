// What a subscriber follows, where each channel stands, and what to send to the relay next. Decisions only: no socket, no timer.

import { fullJitter } from "./backoff.js";
import { channelNamed, EXTRA_PREFIX, FAMILY_PREFIX, GENERAL, isFamily, requestFields, TASK_PREFIX, taskIdOf, typeOf } from "./channels.js";
import { ChannelState } from "./channel_state.js";
import { ProtocolError, RelayError } from "./errors.js";
import { type FamilyStates, foldMember, memberState, statesIn, withoutUnknown } from "./family.js";
import { fold, wholeValues } from "./fold.js";
import { type Received, stateUpdate } from "./received.js";
import type { Fields, Position } from "./types.js";

/**
 * Requests that may be unanswered at a time, once the relay has served one. Before that it is one. A relay ends a connection after
 * RELAY_MAX_CLIENT_ERRORS (16) errors: when it refuses more subscriptions, fewer than that are under way.
 */
const WINDOW = 12;

/** Bounds in milliseconds of the first and of the longest delay between two attempts while Redis is unavailable. */
const UNAVAILABLE_DELAYS = [500, 10_000] as const;

/** The position in a message, or null if there is none. Throws ProtocolError if it is malformed: it would be refused later. */
function checkedPosition(position: any): Position | null {
  if (position === undefined || position === null) return null;
  if (typeof position.epoch === "string" && Number.isSafeInteger(position.offset)) return position;
  throw new ProtocolError(`a malformed position: ${JSON.stringify(position)}`);
}

type Request =
  | { readonly type: "subscribe"; readonly channel: ChannelState; since?: Position | null }
  | { readonly type: "unsubscribe"; readonly channel: ChannelState }
  | { readonly type: "authenticate"; readonly token: string }
  | { readonly type: "ping" };

/** What happens to the channels. */
export interface SubscriptionEvents {
  /** `since`: where the channel stood before this update. */
  onUpdate(channel: ChannelState, update: Received, since: Position | null): void;
  /** The status of a channel has changed. */
  onStatus(channel: ChannelState): void;
  /** A channel is not followed, though it was requested; `error.channel` names it. */
  onRefused(error: RelayError): void;
  /** The relay has accepted the token. */
  onAuthenticated(): void;
  /** The relay announces that the token in use is about to expire. */
  onTokenExpires(): void;
}

/**
 * The state of one subscriber. It outlives its connections. Towards the relay it is a queue of requests, answered in the order in
 * which they were sent.
 */
export class Subscriptions {
  readonly channels = new Map<string, ChannelState>();
  isConnected = false;
  isPingDue = false;
  /** As far as the relay has answered. */
  isRedisAvailable = true;
  readonly #events: SubscriptionEvents;
  readonly #random: () => number;
  #pending: Request[] = [];
  #unanswered: Request[] = [];
  #window = 1;
  #maxWindow = WINDOW;
  #limit = Infinity;
  #retryAt = -Infinity;
  #attempts = 0;

  constructor(events: SubscriptionEvents, random: () => number) {
    this.#events = events;
    this.#random = random;
  }

  /** Follow a channel, from a position with the state there. Following one twice changes nothing. */
  follow(name: string, position: Position | null, state: Fields): ChannelState {
    let channel = this.channels.get(name);
    if (channel === undefined) {
      // A family's updates may append to states that are not known: without them it starts over.
      if (isFamily(name) && Object.keys(state).length === 0) position = null;
      channel = new ChannelState(name, position, position === null ? {} : state);
      this.channels.set(name, channel);
      if (this.isConnected) this.#pending.push({ type: "subscribe", channel });
    }
    return channel;
  }

  leave(channel: ChannelState): void {
    if (this.channels.get(channel.name) !== channel) return;
    this.channels.delete(channel.name);
    if (!this.isConnected) return;
    const index = this.#pending.findIndex((request) => request.type === "subscribe" && request.channel === channel);
    if (index >= 0) this.#pending.splice(index, 1);
    else this.#pending.push({ type: "unsubscribe", channel });
  }

  /**
   * A connection is open.
   *
   * @param token to authenticate with, before anything else
   * @param isWindowed whether requests are sent a few at a time; not where all must be known at once
   */
  connected(token: string | null, isWindowed = true): void {
    this.isConnected = true;
    this.#maxWindow = isWindowed ? WINDOW : Infinity;
    this.#window = isWindowed ? 1 : Infinity;
    if (token !== null) this.#pending.push({ type: "authenticate", token });
    // A relay sends general updates to every client that does not decline them.
    if (!this.channels.has(GENERAL)) this.#pending.push({ type: "unsubscribe", channel: new ChannelState(GENERAL, null, {}) });
    for (const channel of this.channels.values()) this.#pending.push({ type: "subscribe", channel });
  }

  /** Authenticate again, before the token in use expires. */
  renew(token: string): void {
    if (this.isConnected) this.#pending.unshift({ type: "authenticate", token });
  }

  disconnected(): void {
    this.isConnected = this.isPingDue = false;
    this.#pending = [];
    this.#unanswered = [];
    this.#limit = Infinity;
    this.#retryAt = -Infinity;
    this.#attempts = 0;
    this.isRedisAvailable = true;
    for (const channel of this.channels.values()) {
      channel.disconnect();
      channel.reported = channel.status; // that all are disconnected, the connection says
    }
  }

  /** The next message to send, or null. It counts as sent. */
  nextRequest(now: number): string | null {
    if (this.isPingDue) {
      this.isPingDue = false;
      return this.#send({ type: "ping" });
    }
    if (this.#unanswered[0]?.type === "authenticate") return null;
    while (this.#pending.length > 0 && this.#unanswered.length < this.#window && now >= this.#retryAt) {
      const request = this.#pending.shift()!;
      if (request.type !== "subscribe" || this.#confirmed() < this.#limit) return this.#send(request);
      this.#refuse(request.channel, "too_many_subscriptions");
    }
    return null;
  }

  /** When to call `nextRequest` again at the latest. */
  wakeAt(now: number): number {
    return this.#pending.length > 0 && this.#retryAt > now ? this.#retryAt : Infinity;
  }

  #send(request: Request): string {
    this.#unanswered.push(request);
    switch (request.type) {
      case "ping":
        return JSON.stringify({ type: "ping" });
      case "authenticate":
        return JSON.stringify({ type: "authenticate", token: request.token });
      case "unsubscribe":
        return JSON.stringify({ type: "unsubscribe", ...requestFields(request.channel.name) });
      case "subscribe": {
        const { channel } = request;
        request.since = channel.position;
        channel.phase = "requested";
        // What is appended comes as it is appended, unless the state that it belongs to is not known.
        const hasState = channel.position === null || Object.keys(channel.state).length > 0;
        const deltas = hasState && channel.name.startsWith(TASK_PREFIX) ? { deltas: true } : {};
        return JSON.stringify({ type: "subscribe", ...requestFields(channel.name), position: channel.position, ...deltas });
      }
    }
  }

  /** The channels that the relay has confirmed, and still counts. */
  #confirmed(): number {
    let count = 0;
    for (const channel of this.channels.values()) if (channel.isConfirmed) count += 1;
    return count;
  }

  /** Take a message of the relay. Throws ProtocolError if it does not fit. */
  receive(text: string, now: number): void {
    let message: any = null;
    try {
      message = JSON.parse(text);
    } catch {
      // reported below
    }
    switch (message?.type) {
      case "task_update":
        if (message.family !== undefined) return this.#onMember(message);
        return this.#onUpdate(TASK_PREFIX + message.task_id, message, message.data);
      case "task_states":
        return this.#onStates(message);
      case "general_update":
        return this.#onUpdate(GENERAL, message, message.data);
      case "subscribed":
        return this.#onSubscribed(message);
      case "unsubscribed":
        return this.#answered("unsubscribe");
      case "pong":
        return this.#answered("ping");
      case "authenticated":
        this.#answered("authenticate");
        return this.#events.onAuthenticated();
      case "token_expires":
        return this.#events.onTokenExpires();
      case "error":
        return this.#onError(message, now);
    }
    if (typeof message !== "object" || message === null || Array.isArray(message)) {
      throw new ProtocolError(`this is no message of a relay: ${String(text).slice(0, 200)}`);
    }
    const name = this.#extraChannelOf(message);
    if (name !== null) return this.#onUpdate(name, message, message);
    if (message.type === undefined) throw new ProtocolError(`this is no message of a relay: ${String(text).slice(0, 200)}`);
    // Otherwise of a newer relay.
  }

  /** The extra channel that a message came on. It has no name, but a position, whose epoch is of one channel only. */
  #extraChannelOf(message: { position?: { epoch?: string } }): string | null {
    const followed = [...this.channels.values()].filter(({ name }) => name.startsWith(EXTRA_PREFIX));
    const epoch = message.position?.epoch;
    if (epoch !== undefined) {
      return followed.find(({ top, position, awaited }) => [top, position, awaited].some((each) => each?.epoch === epoch))?.name ?? null;
    }
    return followed.length === 1 ? followed[0]!.name : null;
  }

  #answered(type: Request["type"]): void {
    if (this.#unanswered[0]?.type !== type) throw new ProtocolError(`an answer to "${type}", which is not the oldest request`);
    this.#unanswered.shift();
  }

  #onSubscribed(message: any): void {
    const { state: stateFollows, recovered } = message;
    const name = channelNamed(message);
    const position = checkedPosition(message.position);
    if (position === null || typeof stateFollows !== "boolean" || name === undefined) {
      throw new ProtocolError("a subscription without its position, or without saying whether a state follows");
    }
    const oldest = this.#unanswered[0];
    let channel = this.channels.get(name);
    let hadPosition: boolean = recovered === false;
    if (oldest?.type === "subscribe" && oldest.channel.name === name) {
      this.#unanswered.shift();
      this.#window = this.#maxWindow;
      this.#attempts = 0;
      this.isRedisAvailable = true;
      channel = oldest.channel;
      hadPosition = oldest.since !== null;
    } else if (!channel?.isConfirmed) {
      return; // a reset from before our newest request
    }
    const since = channel!.position;
    channel!.confirm(position, stateFollows, recovered === true);
    if (recovered !== true && hadPosition) this.#deliver(channel!, "reset", {}, position, false, since);
    this.#report(channel!);
  }

  #onError(error: { code: string; message?: string; task_id?: unknown; channel?: unknown }, now: number): void {
    const { code, message } = error;
    const name = channelNamed(error);
    const oldest = this.#unanswered[0];
    if (name !== undefined && !(oldest !== undefined && "channel" in oldest && oldest.channel.name === name)) {
      // Not an answer: the relay has ended a subscription, for instance since a new token does not permit it.
      const ended = this.channels.get(name);
      if (ended?.isConfirmed) this.#refuse(ended, code, message);
      return;
    }
    const request = this.#unanswered.shift();
    const channel = request !== undefined && "channel" in request ? request.channel : null;
    const isWanted = channel !== null && this.channels.get(channel.name) === channel;
    if (code === "unavailable" && channel !== null) {
      this.#window = Math.min(this.#window, this.#maxWindow === Infinity ? Infinity : 1);
      this.isRedisAvailable = false;
      channel.phase = "unsubscribed";
      if (isWanted) this.#pending.push({ type: "subscribe", channel });
      if (now >= this.#retryAt) this.#retryAt = now + fullJitter(this.#attempts++, ...UNAVAILABLE_DELAYS, this.#random);
    } else {
      if (code === "too_many_subscriptions") this.#limit = Math.min(this.#limit, this.#confirmed());
      if (channel === null || isWanted) this.#refuse(channel, code, message);
    }
  }

  #refuse(channel: ChannelState | null, code: string, message = ""): void {
    if (channel !== null) this.channels.delete(channel.name);
    const what = channel?.name ?? "a message";
    const text =
      code === "too_many_subscriptions"
        ? `${what} is not followed: the relay lets one connection follow ${this.#limit} channels (RELAY_MAX_SUBSCRIPTIONS); stop following others, or make another RelayClient`
        : `the relay refused ${what}: ${message} (${code})`;
    this.#events.onRefused(new RelayError(text, code, channel?.name ?? null));
  }

  #onUpdate(name: string, message: { position?: unknown }, data: Fields): void {
    const channel = this.channels.get(name);
    // No longer wanted; or a general update from before the answer to our request.
    if (!channel?.isConfirmed) return;
    const position = checkedPosition(message.position);
    // Of a general update it may be any JSON value: services publish some in old forms.
    const isValid = name === GENERAL ? data !== undefined : typeof data === "object" && data !== null;
    if (!isValid) throw new ProtocolError("an update without data");
    const since = channel.position;
    const isState = position !== null && channel.phase === "awaiting state";
    if (position !== null && !this.#advance(channel, position, isState)) return;
    if (name.startsWith(TASK_PREFIX)) {
      try {
        data = wholeValues(channel.state, data);
      } catch {
        throw new ProtocolError(`${name} has an update that does not belong to its state`);
      }
      channel.state = fold(channel.state, data);
    }
    this.#deliver(channel, typeOf(name), data, position, isState, since);
    this.#report(channel);
  }

  /** The channel reaches a position, unless what is there was received before. */
  #advance(channel: ChannelState, position: Position, isState: boolean): boolean {
    const reached = isState ? channel.awaited : channel.position;
    if (reached !== null) {
      if (position.epoch !== reached.epoch) throw new ProtocolError(`${channel.name} has another epoch without a reset`);
      if (position.offset < reached.offset || (position.offset === reached.offset && !isState)) return false;
    }
    [channel.position, channel.awaited, channel.phase] = [position, null, "live"];
    return true;
  }

  /** An update of a task of a family. */
  #onMember(message: { family: unknown; task_id: unknown; data: unknown; position?: unknown }): void {
    const channel = this.channels.get(FAMILY_PREFIX + message.family);
    if (!channel?.isConfirmed) return;
    const position = checkedPosition(message.position);
    if (typeof message.data !== "object" || message.data === null || position === null) throw new ProtocolError("an update of a family without data");
    if (channel.phase === "awaiting state") throw new ProtocolError(`${channel.name} has an update before its states`);
    const since = channel.position;
    if (!this.#advance(channel, position, false)) return;
    const taskId = String(message.task_id);
    const states = channel.state as FamilyStates;
    let data: Fields = message.data;
    if (channel.isTruncated && !Object.hasOwn(states, taskId)) channel.unknown.add(taskId);
    if (channel.unknown.has(taskId)) data = withoutUnknown(memberState(states, taskId), data);
    try {
      data = wholeValues(memberState(states, taskId), data);
    } catch {
      throw new ProtocolError(`${channel.name} has an update that does not belong to the state of ${taskId}`);
    }
    foldMember(states, taskId, data);
    const update: Received = { type: "task_update", channel: channel.name, taskId, data, state: states, position, isState: false };
    this.#events.onUpdate(channel, update, since);
    this.#report(channel);
  }

  /** The states of all tasks of a family. */
  #onStates(message: { family: unknown; tasks: unknown; truncated?: unknown; position?: unknown }): void {
    const channel = this.channels.get(FAMILY_PREFIX + message.family);
    if (!channel?.isConfirmed) return;
    const position = checkedPosition(message.position);
    if (position === null) throw new ProtocolError("states of a family without their position");
    const since = channel.position;
    if (!this.#advance(channel, position, channel.phase === "awaiting state")) return;
    channel.state = statesIn(message.tasks);
    channel.isTruncated = message.truncated === true;
    channel.unknown.clear();
    this.#events.onUpdate(channel, stateUpdate(channel.name, null, channel.state, position, channel.isTruncated), since);
    this.#report(channel);
  }

  #deliver(
    channel: ChannelState,
    type: Received["type"],
    data: Fields,
    position: Position | null,
    isState: boolean,
    since: Position | null,
  ): void {
    const { name, state } = channel;
    this.#events.onUpdate(channel, { type, channel: name, taskId: taskIdOf(name), data, state, position, isState }, since);
  }

  #report(channel: ChannelState): void {
    const { status } = channel;
    if (status === channel.reported) return;
    channel.reported = status;
    this.#events.onStatus(channel);
  }
}
