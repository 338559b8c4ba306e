// Messages over /events, where WebSockets do not get through: the stream says what a WebSocket would.
//
// A stream's subscriptions are fixed when it is opened. So a new subscription opens another one, which resumes all channels from
// their positions, and takes the place of the former. An unsubscription only has the channel's updates ignored.

import { channelNamed } from "../core/channels.js";
import { retryAfter } from "../core/retry_after.js";
import type { Position } from "../core/types.js";
import { SseParser } from "./sse_parser.js";
import type { Transport, TransportEvents } from "./transport.js";

/** Milliseconds in which further requests are awaited before a stream is opened. */
const GATHER_MS = 10;

/** Longest address, in characters: proxies take 8 KB with all headers. */
const MAX_URL = 6000;

/** Statuses of HTTP, and the close codes that mean the same. */
const CLOSE_CODES = new Map([[401, 4401], [403, 4403], [429, 4429]]);

interface Wanted {
  /** What names it in a request. */
  readonly fields: object;
  position: Position | null;
}

export class EventsTransport implements Transport {
  readonly kind = "events";
  readonly #url: string;
  readonly #events: TransportEvents;
  readonly #connectTimeout: number;
  #token: string | null = null;
  #wanted = new Map<string, Wanted>();
  /** Requests that were not answered, oldest first. */
  #queue: { type: string; name: string | null; answer: object }[] = [];
  #stream: AbortController | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isOver = false;

  /** @param url of /events */
  constructor(url: string, events: TransportEvents, connectTimeout: number) {
    this.#url = url;
    this.#events = events;
    this.#connectTimeout = connectTimeout;
    queueMicrotask(() => {
      if (!this.#isOver) events.onOpen();
    });
  }

  send(text: string): void {
    const { type, token, position, ...fields } = JSON.parse(text);
    const name = channelNamed(fields) ?? null;
    switch (type) {
      case "authenticate":
        this.#token = token;
        this.#queue.push({ type, name: null, answer: { type: "authenticated" } });
        if (this.#wanted.size > 0) this.#reopenSoon();
        break;
      case "subscribe":
        this.#queue.push({ type, name, answer: { type: "error", code: "too_many_subscriptions" } });
        this.#wanted.set(name!, { fields, position });
        if (this.#address().length > MAX_URL) this.#wanted.delete(name!);
        else this.#reopenSoon();
        break;
      case "unsubscribe":
        this.#wanted.delete(name!);
        this.#queue.push({ type, name, answer: { type: "unsubscribed", ...fields } });
        break;
      case "ping":
        // Nothing can be sent on a stream. But another one can be opened.
        this.#queue.push({ type, name: null, answer: { type: "pong" } });
        if (this.#wanted.size > 0) this.#reopenSoon();
    }
    queueMicrotask(() => this.#answer());
  }

  close(): void {
    this.#isOver = true;
    clearTimeout(this.#timer);
    this.#stream?.abort();
  }

  /** Answer what needs no word of the relay, up to the first request that does. */
  #answer(): void {
    while (!this.#isOver && this.#queue.length > 0) {
      const { type, name, answer } = this.#queue[0]!;
      const isAsked = type === "subscribe" ? this.#wanted.has(name!) : type === "ping" && this.#timer !== undefined;
      if (isAsked) return;
      this.#queue.shift();
      this.#events.onMessage(JSON.stringify(answer));
    }
  }

  #address(): string {
    const requests = [...this.#wanted.values()].map(({ fields, position }) => ({ ...fields, position }));
    return `${this.#url}?subscribe=${encodeURIComponent(JSON.stringify(requests))}`;
  }

  #reopenSoon(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#open(), GATHER_MS);
  }

  async #open(): Promise<void> {
    this.#stream?.abort();
    const stream = (this.#stream = new AbortController());
    const deadline = setTimeout(() => stream.abort(), this.#connectTimeout);
    const isCurrent = (): boolean => !this.#isOver && this.#stream === stream;
    let detail = "the event stream has ended";
    let code: number | null = null;
    let wait = 0;
    try {
      const headers: Record<string, string> = this.#token === null ? {} : { authorization: `Bearer ${this.#token}` };
      const request: RequestInit = { headers, signal: stream.signal, cache: "no-store", credentials: "include" };
      // Any page may use a relay that names no origins, but none with its cookies.
      const response = await fetch(this.#address(), request).catch((error) => {
        if (stream.signal.aborted) throw error;
        return fetch(this.#address(), { ...request, credentials: "omit" });
      });
      clearTimeout(deadline);
      if (!isCurrent()) return;
      if (!response.ok || response.body === null) {
        code = CLOSE_CODES.get(response.status) ?? null;
        wait = retryAfter(response);
        detail = `/events answered with status ${response.status}`;
        void response.body?.cancel();
      } else {
        this.#timer = undefined;
        this.#events.onSign();
        wait = await this.#read(response.body, isCurrent);
      }
    } catch (error) {
      detail = `the event stream failed: ${error instanceof Error ? error.message : error}`;
    }
    clearTimeout(deadline);
    if (!isCurrent()) return;
    this.close();
    this.#events.onClose(detail, code, wait);
  }

  /** Read a stream until the relay ends it. Returns the milliseconds for which it then asks to stay away. */
  async #read(body: ReadableStream<Uint8Array>, isCurrent: () => boolean): Promise<number> {
    const reader = body.getReader();
    const decoder = new TextDecoder();
    const parser = new SseParser();
    for (;;) {
      const { done, value } = await reader.read();
      if (done || !isCurrent()) return parser.retry;
      this.#answer(); // the relay has answered: so it lives
      this.#events.onSign();
      for (const text of parser.push(decoder.decode(value, { stream: true }))) {
        if (!isCurrent()) return 0;
        this.#take(text);
      }
    }
  }

  #take(text: string): void {
    const message = JSON.parse(text);
    const name = channelNamed(message);
    const wanted = name === undefined ? undefined : this.#wanted.get(name);
    if (message.type === "subscribed" || message.type === "error") {
      const oldest = this.#queue[0];
      const isAnswer = oldest?.type === "subscribe" && (name === undefined || oldest.name === name);
      if (isAnswer) this.#queue.shift();
      if (message.type === "error") this.#wanted.delete(name ?? oldest?.name ?? "");
      else if (wanted === undefined) return;
      else if (message.recovered !== true && !message.state) wanted.position = message.position;
    } else if (wanted !== undefined && message.position !== undefined) {
      wanted.position = message.position;
    }
    this.#events.onMessage(text);
    this.#answer();
  }
}
