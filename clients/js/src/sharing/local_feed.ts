// A connection of this page's own.

import { Engine } from "../engine/engine.js";
import type { Resolved } from "../engine/options.js";
import type { ConnectionState, Fields, Position } from "../core/types.js";
import type { Feed, FeedEvents } from "./feed.js";

export class LocalFeed implements Feed {
  readonly #engine: Engine;

  constructor(url: URL, options: Resolved, events: FeedEvents) {
    this.#engine = new Engine(url, options, {
      onUpdate: ({ name }, update) => events.onUpdate(name, update),
      onStatus: ({ name, status, position }) => events.onStatus(name, status, position),
      onConnection: (state) => events.onConnection(state),
      onError: (error) => events.onError(error),
    });
  }

  get connection(): ConnectionState {
    return this.#engine.connection;
  }

  follow(name: string, position: Position | null, state: Fields): void {
    this.#engine.follow(name, position, state);
  }

  leave(name: string): void {
    this.#engine.leave(name);
  }

  probe(): void {
    this.#engine.probe();
  }

  pause(detail: string): void {
    this.#engine.pause(detail);
  }

  resume(): void {
    this.#engine.resume();
  }

  close(): void {
    this.#engine.close();
  }
}
