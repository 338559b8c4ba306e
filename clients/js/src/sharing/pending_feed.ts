// In place of a feed while it is not known which one: the first token decides who shares its connection.

import type { ConnectionState } from "../core/types.js";
import type { Feed } from "./feed.js";

export class PendingFeed implements Feed {
  readonly connection: ConnectionState;
  /** Why the page is paused, if it is; the feed that comes is then paused, too. */
  paused: string | null = null;

  constructor(connection: ConnectionState) {
    this.connection = connection;
  }

  follow(): void {}
  leave(): void {}
  probe(): void {}

  pause(detail: string): void {
    this.paused = detail;
  }

  resume(): void {
    this.paused = null;
  }

  close(): void {}
}
