// What a tab and the host of the shared connection say to each other.

import type { ChannelStatus } from "../core/channel_state.js";
import type { Received } from "../core/received.js";
import type { ConnectionState, Fields, Position } from "../core/types.js";
import type { EngineOptions } from "../engine/options.js";

/** The options that can be sent: those that are no functions. */
export type SentOptions = Omit<EngineOptions, "token" | "WebSocket" | "random">;

export type ToHost =
  | { readonly type: "hello"; readonly url: string; readonly options: SentOptions; readonly hasToken: boolean; readonly lock: string }
  | { readonly type: "follow"; readonly name: string; readonly position: Position | null; readonly state: Fields }
  | { readonly type: "leave"; readonly name: string }
  | { readonly type: "token"; readonly id: number; readonly token: string | null }
  | { readonly type: "probe" }
  | { readonly type: "bye" };

export type ToTab =
  | { readonly type: "update"; readonly update: Omit<Received, "state"> }
  | { readonly type: "status"; readonly name: string; readonly status: ChannelStatus; readonly position: Position | null }
  | { readonly type: "connection"; readonly state: ConnectionState }
  | { readonly type: "error"; readonly message: string; readonly code: string | number | null; readonly channel: string | null }
  | { readonly type: "wants token"; readonly id: number }
  | { readonly type: "here" };
