// One connection for many tabs. It runs in a shared worker, or in the tab that was elected.

import type { ChannelState } from "../core/channel_state.js";
import type { RelayError } from "../core/errors.js";
import type { Received } from "../core/received.js";
import type { Fields, Position } from "../core/types.js";
import { Engine } from "../engine/engine.js";
import { type Resolved, resolved } from "../engine/options.js";
import { Follower } from "./follower.js";
import type { ToHost, ToTab } from "./messages.js";

/** Milliseconds for a tab to answer with a token, before the next one is asked. */
const TOKEN_TIMEOUT_MS = 5_000;

/** Milliseconds for which the connection is kept without a tab: a page that is reloaded finds it. */
const LINGER_MS = 1_000;

/** A tab, as the host sees it. */
export interface Tab {
  post(message: ToTab): void;
}

interface Guest {
  readonly tab: Tab;
  readonly followers: Map<string, Follower>;
}

export class Host {
  #engine: Engine | null = null;
  readonly #guests = new Map<Tab, Guest>();
  readonly #make: (url: URL, options: Resolved, events: ConstructorParameters<typeof Engine>[2]) => Engine;
  readonly #tokens = new Map<number, (token: string | null) => void>();
  #asked = 0;
  #linger: ReturnType<typeof setTimeout> | undefined;

  constructor(make = (...all: ConstructorParameters<typeof Engine>): Engine => new Engine(...all)) {
    this.#make = make;
  }

  /** Take a message of a tab. */
  receive(tab: Tab, message: ToHost): void {
    if (message.type === "hello") {
      this.#welcome(tab, message);
      return;
    }
    const guest = this.#guests.get(tab);
    if (guest === undefined) return;
    switch (message.type) {
      case "follow":
        return this.#follow(guest, message.name, message.position, message.state);
      case "leave":
        guest.followers.delete(message.name);
        return this.#leave(message.name);
      case "token":
        this.#tokens.get(message.id)?.(message.token);
        return;
      case "probe":
        tab.post({ type: "here" });
        return this.#engine?.probe();
      case "bye":
        return this.remove(tab);
    }
  }

  /** A tab is gone. */
  remove(tab: Tab): void {
    const guest = this.#guests.get(tab);
    if (guest === undefined) return;
    this.#guests.delete(tab);
    for (const name of guest.followers.keys()) this.#leave(name);
    if (this.#guests.size > 0) return;
    clearTimeout(this.#linger);
    this.#linger = setTimeout(() => this.close(), LINGER_MS);
  }

  close(): void {
    clearTimeout(this.#linger);
    this.#engine?.close();
    this.#engine = null;
  }

  #welcome(tab: Tab, { url, options, hasToken }: ToHost & { type: "hello" }): void {
    clearTimeout(this.#linger);
    this.#guests.set(tab, { tab, followers: new Map() });
    this.#engine ??= this.#make(new URL(url), resolved({ ...options, token: hasToken ? () => this.#token() : null }), {
      onUpdate: (channel, update, since) => this.#onUpdate(channel, update, since),
      onStatus: (channel) => this.#onStatus(channel),
      onConnection: (state) => this.#all({ type: "connection", state }),
      onError: (error) => this.#onError(error),
    });
    tab.post({ type: "here" });
    tab.post({ type: "connection", state: this.#engine.connection });
  }

  #follow(guest: Guest, name: string, position: Position | null, state: Fields): void {
    const engine = this.#engine!;
    const follower = new Follower(position);
    guest.followers.set(name, follower);
    const channel = engine.subscriptions.channels.get(name);
    if (channel === undefined) {
      engine.follow(name, position, state);
    } else if (follower.isBehind(channel.position)) {
      engine.leave(name);
      engine.follow(name, position, state);
    } else if (channel.phase === "live") {
      this.#join(guest, name, follower, channel);
    }
  }

  #join({ tab }: Guest, name: string, follower: Follower, channel: ChannelState): void {
    for (const update of follower.join(name, channel)) tab.post({ type: "update", update });
    tab.post({ type: "status", name, status: channel.status, position: follower.position });
  }

  #leave(name: string): void {
    for (const { followers } of this.#guests.values()) if (followers.has(name)) return;
    this.#engine?.leave(name);
  }

  #onUpdate(channel: ChannelState, update: Received, since: Position | null): void {
    for (const { tab, followers } of this.#guests.values()) {
      for (const sent of followers.get(channel.name)?.take(update, channel, since) ?? []) tab.post({ type: "update", update: sent });
    }
  }

  #onStatus(channel: ChannelState): void {
    const { name, status } = channel;
    for (const guest of this.#guests.values()) {
      const follower = guest.followers.get(name);
      if (follower === undefined) continue;
      if (follower.needsState && channel.phase === "live") this.#join(guest, name, follower, channel);
      else guest.tab.post({ type: "status", name, status, position: follower.position });
    }
  }

  #onError({ message, code, channel }: RelayError): void {
    for (const { tab, followers } of this.#guests.values()) {
      if (channel === null || followers.delete(channel)) tab.post({ type: "error", message, code, channel });
    }
  }

  #all(message: ToTab): void {
    for (const { tab } of this.#guests.values()) tab.post(message);
  }

  /** A token from the first tab that has one. */
  async #token(): Promise<string> {
    for (const { tab } of [...this.#guests.values()].reverse()) {
      const id = ++this.#asked;
      const answer = new Promise<string | null>((resolve) => {
        this.#tokens.set(id, resolve);
        setTimeout(() => resolve(null), TOKEN_TIMEOUT_MS);
      });
      tab.post({ type: "wants token", id });
      const token = await answer;
      this.#tokens.delete(id);
      if (token !== null) return token;
    }
    throw new Error("no tab has a token");
  }
}
