// The connection to a relay: it is opened, kept, and opened again, until it is closed. What is said on it is decided in
// core/subscriptions.ts.

import { fullJitter } from "../core/backoff.js";
import type { ChannelState } from "../core/channel_state.js";
import { FORBIDDEN, isFinal, TOKEN_EXPIRED } from "../core/close_codes.js";
import { ProtocolError, RelayError } from "../core/errors.js";
import { Subscriptions } from "../core/subscriptions.js";
import type { Received } from "../core/received.js";
import type { ConnectionState, Fields, Position } from "../core/types.js";
import { EventsTransport } from "./events_transport.js";
import { httpUrl, type Resolved } from "./options.js";
import { tokenOf } from "./token.js";
import type { Transport, TransportEvents } from "./transport.js";
import { WebSocketTransport } from "./websocket_transport.js";

/** A connection that lasted this many milliseconds counts as a good one: the next delay is the shortest again. */
const GOOD_MS = 2_000;

/** After so many WebSockets in a row that did not open, `/events` is tried. */
const FAILURES_BEFORE_EVENTS = 2;

/** How long the answer to a ping may take when the page has reason to doubt the connection, in milliseconds. */
const PROBE_MS = 5_000;

/** The events of an engine. */
export interface EngineEvents {
  onUpdate(channel: ChannelState, update: Received, since: Position | null): void;
  onStatus(channel: ChannelState): void;
  onConnection(state: ConnectionState): void;
  /** A channel is not delivered; or, if the error names none, nothing is any more. */
  onError(error: RelayError): void;
}

/**
 * One connection to one relay.
 *
 *   state        event                          next         effect
 *   connecting   transport open                 open         requests are sent
 *   connecting   time-out, closed, no token     waiting      a delay with full jitter, after what the relay asks for; then connecting
 *   open         closed, silent, nonsense       waiting      the same; short again if the connection was a good one
 *   open         final close code               closed       `onError`
 *   waiting      delay over, or probe()         connecting
 *   any but closed   pause()                    paused       the connection is given up without a word
 *   paused       resume()                       connecting   or waiting, for what is left of what the relay has asked for
 *   any          close()                        closed
 */
export class Engine {
  connection: ConnectionState = { status: "connecting", transport: null, isRedisAvailable: true, retryAt: null, detail: "" };
  readonly subscriptions: Subscriptions;
  readonly #url: URL;
  readonly #options: Resolved;
  readonly #events: EngineEvents;
  #state: "connecting" | "open" | "waiting" | "paused" | "closed" = "connecting";
  #transport: Transport | null = null;
  #openedAt: number | null = null;
  /** Counts connections: what belongs to a former one is ignored. */
  #generation = 0;
  #attempt = 0;
  /** When the last good connection ended, or this client began, as `performance.now()`. */
  #lostAt = performance.now();
  /** When the relay wants to be asked again, as `performance.now()`. */
  #busyUntil = 0;
  #failures = 0;
  #upgrades = 0;
  #timers: { [name in "retry" | "heartbeat" | "connect" | "wake" | "upgrade"]?: ReturnType<typeof setTimeout> } = {};

  constructor(url: URL, options: Resolved, events: EngineEvents) {
    this.#url = url;
    this.#options = options;
    this.#events = events;
    this.subscriptions = new Subscriptions(
      {
        onUpdate: events.onUpdate,
        onStatus: events.onStatus,
        onRefused: events.onError,
        onAuthenticated: () => {},
        onTokenExpires: () => void this.#renew(),
      },
      options.random,
    );
    this.#connect();
  }

  follow(name: string, position: Position | null, state: Fields): ChannelState {
    const channel = this.subscriptions.follow(name, position, state);
    this.#send();
    return channel;
  }

  leave(name: string): void {
    const channel = this.subscriptions.channels.get(name);
    if (channel === undefined) return;
    this.subscriptions.leave(channel);
    this.#send();
  }

  /** There is reason to doubt the connection, or to expect that one succeeds now: the page is shown again, the network is back. */
  probe(): void {
    if (this.#state === "open") {
      this.#ping(Math.min(PROBE_MS, this.#options.heartbeatTimeout));
    } else if (this.#state === "waiting") {
      // Not all that share a network at the same moment.
      this.#attempt = 0;
      this.#retry(this.connection.detail);
    }
  }

  /** Give the connection up, for as long as the page is frozen. */
  pause(detail: string): void {
    if (this.#state === "closed" || this.#state === "paused") return;
    this.#drop();
    this.#state = "paused";
    this.#report("reconnecting", detail);
  }

  resume(): void {
    if (this.#state !== "paused") return;
    this.#attempt = 0;
    if (performance.now() < this.#busyUntil) this.#retry(this.connection.detail);
    else this.#connect();
  }

  close(): void {
    this.#drop(1000);
    this.#state = "closed";
  }

  #connect(): void {
    this.#state = "connecting";
    const generation = ++this.#generation;
    const { token, tokenTimeout } = this.#options;
    if (token === null) {
      this.#open(null, generation);
      return;
    }
    tokenOf(token, tokenTimeout).then(
      (text) => {
        if (generation === this.#generation) this.#open(text, generation);
      },
      (error) => {
        if (generation === this.#generation) this.#lost(`the token callback failed: ${error}`, null);
      },
    );
  }

  #open(token: string | null, generation: number): void {
    const { WebSocket, connectTimeout } = this.#options;
    const ifCurrent = <A extends unknown[]>(handle: (...args: A) => void) => {
      return (...args: A): void => {
        if (generation === this.#generation) handle(...args);
      };
    };
    const events: TransportEvents = {
      onOpen: ifCurrent(() => this.#opened(token)),
      onMessage: ifCurrent((text) => this.#receive(text)),
      onSign: ifCurrent(() => {
        this.#reportLive();
        this.#restartHeartbeat();
      }),
      onClose: ifCurrent((detail, code, retryAfter) => this.#lost(detail, code, retryAfter)),
    };
    this.#timers.connect = setTimeout(() => this.#lost("the connection was not opened in time", null), connectTimeout);
    try {
      if (this.#usesEvents()) this.#transport = new EventsTransport(httpUrl(this.#url, "events").href, events, connectTimeout);
      else this.#transport = new WebSocketTransport(WebSocket, this.#url.href, events);
    } catch (error) {
      this.#lost(`cannot connect: ${error}`, null); // the address is right
    }
  }

  /** After failures: one attempt by `/events`, the next by WebSocket, and so on. */
  #usesEvents(): boolean {
    const failures = this.#failures - FAILURES_BEFORE_EVENTS;
    return this.#options.events && typeof fetch === "function" && failures >= 0 && failures % 2 === 0;
  }

  #opened(token: string | null): void {
    const transport = this.#transport!;
    clearTimeout(this.#timers.connect);
    this.#state = "open";
    this.#openedAt = performance.now();
    if (transport.kind === "websocket") this.#failures = this.#upgrades = 0;
    else this.#upgradeLater();
    this.subscriptions.connected(token, transport.kind === "websocket");
    this.#restartHeartbeat();
    // An event stream is not open yet: what it is to say must be known first.
    if (transport.kind === "websocket" || this.subscriptions.channels.size === 0) this.#reportLive();
    this.#send();
  }

  #reportLive(): void {
    const { status, transport } = this.connection;
    const kind = this.#transport?.kind ?? null;
    if (status === "live" && transport === kind) return;
    this.#report("live", `connected to ${this.#url.href}${kind === "events" ? " by /events, as WebSockets do not get through" : ""}`);
  }

  #receive(text: string): void {
    this.#restartHeartbeat();
    const { subscriptions } = this;
    const wasAvailable = subscriptions.isRedisAvailable;
    try {
      subscriptions.receive(text, performance.now());
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#lost(`the relay sent something unexpected: ${error.message}`, null);
      return;
    }
    if (this.#state !== "open") return; // closed by what was called
    if (subscriptions.isRedisAvailable !== wasAvailable) {
      this.#report("live", subscriptions.isRedisAvailable ? "the relay can reach Redis again" : "the relay cannot reach Redis");
    }
    this.#send();
  }

  /** Something has arrived. After some silence send a ping, and if nothing comes then, give the connection up. */
  #restartHeartbeat(): void {
    const { heartbeat, heartbeatTimeout } = this.#options;
    if (this.#state !== "open") return;
    clearTimeout(this.#timers.heartbeat);
    this.#timers.heartbeat = setTimeout(() => this.#ping(heartbeatTimeout), heartbeat);
  }

  #ping(timeout: number): void {
    clearTimeout(this.#timers.heartbeat);
    this.#timers.heartbeat = setTimeout(() => this.#lost("the relay is silent", null), timeout);
    this.subscriptions.isPingDue = true;
    this.#send();
  }

  #send(): void {
    if (!this.subscriptions.isConnected) return;
    const now = performance.now();
    let request;
    while ((request = this.subscriptions.nextRequest(now)) !== null) this.#transport!.send(request);
    clearTimeout(this.#timers.wake);
    const wait = this.subscriptions.wakeAt(now) - now;
    if (wait !== Infinity) this.#timers.wake = setTimeout(() => this.#send(), Math.ceil(wait));
  }

  /** Get a new token and show it, while the old one is still good. If that fails, the relay ends the connection, and the next has one. */
  async #renew(): Promise<void> {
    const generation = this.#generation;
    const { token, tokenTimeout } = this.#options;
    if (typeof token !== "function") return;
    const renewed = await tokenOf(token, tokenTimeout).catch(() => null);
    if (renewed === null || generation !== this.#generation || this.#state !== "open") return;
    this.subscriptions.renew(renewed);
    this.#send();
  }

  /** While `/events` is used, see from time to time whether a WebSocket can be opened. */
  #upgradeLater(): void {
    const { upgradeAfter, random } = this.#options;
    const wait = upgradeAfter / 2 + fullJitter(this.#upgrades++, upgradeAfter / 2, upgradeAfter * 20, random);
    this.#timers.upgrade = setTimeout(() => {
      let isOpen = false;
      const over = (): void => {
        clearTimeout(deadline);
        if (!isOpen && this.#transport?.kind === "events") this.#upgradeLater();
      };
      const deadline = setTimeout(() => (probe.close(), over()), this.#options.connectTimeout);
      const probe = new WebSocketTransport(this.#options.WebSocket, this.#url.href, {
        onOpen: () => {
          isOpen = true;
          clearTimeout(deadline);
          probe.close(1000);
          if (this.#transport?.kind !== "events") return;
          this.#drop();
          this.#failures = 0;
          this.#connect();
        },
        onMessage: () => {},
        onSign: () => {},
        onClose: over,
      });
    }, wait);
  }

  /** The connection has ended, or is abandoned. */
  #lost(detail: string, code: number | null, retryAfter = 0): void {
    const { token } = this.#options;
    const openedAt = this.#openedAt;
    const wasEvents = this.#transport?.kind === "events";
    this.#drop();
    const cannotRenew = code === TOKEN_EXPIRED && typeof token !== "function";
    if (isFinal(code) || cannotRenew) {
      this.#state = "closed";
      this.#report("closed", detail);
      const advice = cannotRenew ? (token === null ? "; pass a `token`" : "; pass `token` as a callback that returns a new one") : "";
      const what = code === FORBIDDEN || cannotRenew ? "the relay does not permit this" : "the relay does not accept this client";
      this.#events.onError(new RelayError(`${what}: ${detail}${advice}`, code));
      return;
    }
    if (openedAt === null || wasEvents) this.#failures += 1;
    const now = performance.now();
    if (openedAt !== null && now - openedAt >= GOOD_MS) [this.#attempt, this.#lostAt] = [0, now];
    this.#busyUntil = now + retryAfter;
    this.#retry(detail);
    this.#attempt += 1;
  }

  /**
   * Connect after a delay. What the relay asks for, it may ask of many: behind that, each has a delay of its own.
   *
   * Its bound doubles with each attempt, but stays below the length of the outage: after two seconds without network nobody waits ten.
   */
  #retry(detail: string): void {
    const { retryBase, retryCap, random } = this.#options;
    const now = performance.now();
    const bound = Math.min(retryCap, Math.max(2 * retryBase, now - this.#lostAt));
    const wait = Math.max(0, this.#busyUntil - now) + fullJitter(this.#attempt, retryBase, bound, random);
    this.#state = "waiting";
    clearTimeout(this.#timers.retry);
    this.#timers.retry = setTimeout(() => this.#connect(), wait);
    this.#report(globalThis.navigator?.onLine === false ? "offline" : "reconnecting", detail, Date.now() + wait);
  }

  #drop(code?: number): void {
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    this.#generation += 1;
    this.#openedAt = null;
    const transport = this.#transport;
    this.#transport = null;
    this.subscriptions.disconnected();
    transport?.close(code);
  }

  #report(status: ConnectionState["status"], detail: string, retryAt: number | null = null): void {
    const { isRedisAvailable } = this.subscriptions;
    this.connection = { status, transport: this.#transport?.kind ?? null, isRedisAvailable, retryAt, detail };
    this.#events.onConnection(this.connection);
  }
}
