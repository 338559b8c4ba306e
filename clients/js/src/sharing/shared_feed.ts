// A tab's side of the shared connection.

import { RelayError } from "../core/errors.js";
import { isFamily } from "../core/channels.js";
import { foldMember } from "../core/family.js";
import { fold } from "../core/fold.js";
import type { Received } from "../core/received.js";
import type { ConnectionState, Fields, Position, TokenSource } from "../core/types.js";
import { tokenOf } from "../engine/token.js";
import { holdLifeLock, type LifeLock } from "./life_lock.js";
import type { Feed, FeedEvents } from "./feed.js";
import type { SentOptions, ToHost, ToTab } from "./messages.js";

/** Milliseconds for the host to show that it is there, before another way is taken. */
const HOST_TIMEOUT_MS = 4_000;

/** The way to a host, which may change: a tab that is elected takes the place of one that was closed. */
export interface HostLink {
  post(message: ToHost): void;
  /** The host does not answer. */
  onSilence(): void;
  close(): void;
}

/** Opens a link. `onHost` is called for each host, which knows nothing of this tab yet. */
export type OpenLink = (onMessage: (message: ToTab) => void, onHost: () => void) => HostLink;

/** The state of a channel after an update. That of a family is changed in place. */
function stateAfter(former: Fields, { type, channel, taskId, data, isState }: Omit<Received, "state">): Fields {
  if (type === "task_states") return fold({}, data);
  if (type === "reset" || taskId === null) return {};
  if (!isFamily(channel)) return fold(isState ? {} : former, data);
  foldMember(former, taskId, data);
  return former;
}

export class SharedFeed implements Feed {
  connection: ConnectionState = { status: "connecting", transport: null, isRedisAvailable: true, retryAt: null, detail: "" };
  readonly #url: URL;
  readonly #options: SentOptions & { tokenTimeout: number };
  readonly #token: TokenSource | null;
  readonly #open: OpenLink;
  readonly #events: FeedEvents;
  #lock: LifeLock | null = null;
  #link: HostLink | null = null;
  #followed = new Map<string, { position: Position | null; state: Fields }>();
  #hostTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(url: URL, options: SentOptions & { tokenTimeout: number }, token: TokenSource | null, open: OpenLink, events: FeedEvents) {
    this.#url = url;
    this.#options = options;
    this.#token = token;
    this.#open = open;
    this.#events = events;
    this.resume();
  }

  follow(name: string, position: Position | null, state: Fields): void {
    this.#followed.set(name, { position, state: position === null ? {} : state });
    this.#link?.post({ type: "follow", name, position, state });
  }

  leave(name: string): void {
    if (this.#followed.delete(name)) this.#link?.post({ type: "leave", name });
  }

  probe(): void {
    this.#link?.post({ type: "probe" });
    this.#await();
  }

  pause(detail: string): void {
    this.#closeLink();
    this.#report({ ...this.connection, status: "reconnecting", transport: null, retryAt: null, detail });
  }

  resume(): void {
    if (this.#link !== null) return;
    this.#lock = holdLifeLock();
    this.#link = this.#open(
      (message) => this.#receive(message),
      () => void this.#greet(),
    );
    this.#await(); // also for a host that does not show itself at all
  }

  close(): void {
    this.#closeLink();
    this.#followed.clear();
  }

  #closeLink(): void {
    clearTimeout(this.#hostTimer);
    this.#link?.post({ type: "bye" });
    this.#link?.close();
    this.#link = null;
    this.#lock?.release();
    this.#lock = null;
  }

  async #greet(): Promise<void> {
    const lock = this.#lock!;
    await lock.held;
    if (this.#lock !== lock || this.#link === null) return;
    const { tokenTimeout: _, ...options } = this.#options;
    this.#link.post({ type: "hello", url: this.#url.href, options, hasToken: this.#token !== null, lock: lock.name });
    for (const [name, { position, state }] of this.#followed) this.#link.post({ type: "follow", name, position, state });
    this.#await();
  }

  #await(): void {
    clearTimeout(this.#hostTimer);
    this.#hostTimer = setTimeout(() => this.#link?.onSilence(), HOST_TIMEOUT_MS);
  }

  #receive(message: ToTab): void {
    clearTimeout(this.#hostTimer);
    switch (message.type) {
      case "update": {
        const { update } = message;
        const followed = this.#followed.get(update.channel);
        if (followed === undefined) return; // it was left meanwhile
        followed.state = stateAfter(followed.state, update);
        if (update.position !== null && update.type !== "reset") followed.position = update.position;
        return this.#events.onUpdate(update.channel, { ...update, state: followed.state });
      }
      case "status": {
        const followed = this.#followed.get(message.name);
        if (followed === undefined) return;
        if (message.status === "live" && message.position !== null) followed.position = message.position;
        return this.#events.onStatus(message.name, message.status, message.position);
      }
      case "connection":
        return this.#report(message.state);
      case "error":
        if (message.channel !== null) this.#followed.delete(message.channel);
        return this.#events.onError(new RelayError(message.message, message.code, message.channel));
      case "wants token":
        return void this.#answer(message.id);
    }
  }

  async #answer(id: number): Promise<void> {
    const token = this.#token === null ? null : await tokenOf(this.#token, this.#options.tokenTimeout).catch(() => null);
    this.#link?.post({ type: "token", id, token });
  }

  #report(state: ConnectionState): void {
    this.connection = state;
    this.#events.onConnection(state);
  }
}
