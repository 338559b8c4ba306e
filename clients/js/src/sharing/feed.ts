// Where a client gets its updates from: a connection of its own, or one that it shares with the other tabs.

import type { ChannelStatus } from "../core/channel_state.js";
import type { RelayError } from "../core/errors.js";
import type { Received } from "../core/received.js";
import type { ConnectionState, Fields, Position } from "../core/types.js";

export interface FeedEvents {
  onUpdate(name: string, update: Received): void;
  /** @param position where the channel stands, if that is all there is to know */
  onStatus(name: string, status: ChannelStatus, position: Position | null): void;
  onConnection(state: ConnectionState): void;
  onError(error: RelayError): void;
}

export interface Feed {
  readonly connection: ConnectionState;
  follow(name: string, position: Position | null, state: Fields): void;
  leave(name: string): void;
  /** There is reason to look whether the connection is good. */
  probe(): void;
  /** The page is frozen, or kept for the back button: hold nothing. */
  pause(detail: string): void;
  resume(): void;
  close(): void;
}
