// The options of a client, checked and complete.

import type { Fields, Position, TokenSource } from "../core/types.js";

/** Times in milliseconds. */
export interface EngineOptions {
  /** What the relay is to know this client by. A callback is asked for each connection, and before the token in use expires. */
  token?: TokenSource | null;
  /** For Node before 22: that of the package ws. By default the global one. */
  WebSocket?: new (url: string) => any;
  /** Whether `/events` is used where WebSockets do not get through. Default true. */
  events?: boolean;
  /** From the first packet to the open connection. Default 10000. */
  connectTimeout?: number;
  /** After this long without a message from the relay, it is sent a ping. Default 25000. */
  heartbeat?: number;
  /** How long the answer to a ping may take. Default 10000. */
  heartbeatTimeout?: number;
  /** How long the token callback may take. Default 15000. */
  tokenTimeout?: number;
  /**
   * Upper bound of the first delay before reconnecting; the delay is uniform from 0. It doubles with each attempt, but after the second
   * it is no longer than the outage so far. Default 500.
   */
  retryBase?: number;
  /** Upper bound of every delay. Default 20000. */
  retryCap?: number;
  /** While `/events` is used: the first delay before WebSockets are tried again, which doubles up to 20 times as much. Default 30000. */
  upgradeAfter?: number;
  /** Random numbers from 0 to 1. Default Math.random. */
  random?: () => number;
}

/** What a channel is resumed from. */
export interface Resume {
  readonly positions?: { readonly [channel: string]: Position };
  readonly states?: { readonly [channel: string]: Fields };
}

export type Resolved = Required<EngineOptions>;

const TIMES = ["connectTimeout", "heartbeat", "heartbeatTimeout", "tokenTimeout", "retryBase", "retryCap", "upgradeAfter"] as const;

/**
 * The options with their defaults.
 *
 * Throws TypeError if there is no WebSocket; RangeError if a time is not positive.
 */
export function resolved(options: EngineOptions): Resolved {
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  const all: Resolved = {
    token: null,
    WebSocket: (globalThis as any).WebSocket,
    events: true,
    connectTimeout: 10_000,
    heartbeat: 25_000,
    heartbeatTimeout: 10_000,
    tokenTimeout: 15_000,
    retryBase: 500,
    retryCap: 20_000,
    upgradeAfter: 30_000,
    random: Math.random,
    ...given,
  };
  if ("WebSocket" in options) all.WebSocket = options.WebSocket as Resolved["WebSocket"];
  if (typeof all.WebSocket !== "function") {
    throw new TypeError("this environment has no WebSocket: pass that of the package ws, new RelayClient(url, { WebSocket })");
  }
  for (const name of TIMES) if (!(all[name] > 0)) throw new RangeError(`${name} must be positive, in milliseconds`);
  return all;
}

/** The address of a relay's WebSocket. Throws TypeError if it cannot be one. */
export function socketUrl(url: string | URL): URL {
  const parsed = new URL(url, globalThis.location?.href);
  parsed.protocol = parsed.protocol.replace(/^http/, "ws");
  if (parsed.pathname === "/") parsed.pathname = "/ws/tasks";
  if (!/^wss?:$/.test(parsed.protocol)) throw new TypeError(`a relay's URL begins with ws:// or wss://, not ${url}`);
  return parsed;
}

/** Another address of the same relay: `path` in place of "ws/tasks". */
export function httpUrl(socket: URL, path: string): URL {
  const url = new URL(socket);
  url.protocol = url.protocol.replace(/^ws/, "http");
  url.pathname = url.pathname.replace(/(\/ws\/tasks|[^/]*)$/, "") + "/" + path.replace(/^\//, "");
  url.search = "";
  return url;
}
