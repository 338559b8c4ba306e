// Tabs that elect one of them, which has the connection and passes updates on by BroadcastChannel.
//
// The elected tab holds a lock of the Web Locks API. When it is closed, frozen or crashes, the browser gives the lock to the next one,
// which announces itself; all tabs then say again what they follow, and from which position.

import { Host, type Tab } from "./host.js";
import type { HostLink, OpenLink } from "./shared_feed.js";
import type { ToHost, ToTab } from "./messages.js";

type Envelope =
  | { readonly kind: "elected"; readonly host: string }
  | { readonly kind: "new tab"; readonly from: string }
  | { readonly kind: "to host"; readonly from: string; readonly message: ToHost }
  | { readonly kind: "to tab"; readonly to: string; readonly message: ToTab };

/** Whether this environment can elect. Web Locks need a secure context. */
export const canElect = (): boolean => typeof BroadcastChannel === "function" && globalThis.navigator?.locks !== undefined;

/** @param key names the connection that is shared */
export const election =
  (key: string): OpenLink =>
  (onMessage, onHost) =>
    new Election(`trio-relay:${key}`, onMessage, onHost);

class Election implements HostLink {
  readonly #name: string;
  readonly #id = crypto.randomUUID();
  readonly #channel: BroadcastChannel;
  readonly #onMessage: (message: ToTab) => void;
  readonly #onHost: () => void;
  readonly #over = new AbortController();
  /** While this tab is the elected one. */
  #host: Host | null = null;
  #tabs = new Map<string, Tab>();
  /** The elected tab that was greeted. */
  #greeted: string | null = null;
  #release: (() => void) | null = null;

  constructor(name: string, onMessage: (message: ToTab) => void, onHost: () => void) {
    this.#name = name;
    this.#onMessage = onMessage;
    this.#onHost = onHost;
    this.#channel = new BroadcastChannel(name);
    this.#channel.onmessage = ({ data }) => this.#receive(data);
    this.#stand({ signal: this.#over.signal });
    this.#broadcast({ kind: "new tab", from: this.#id });
  }

  post(message: ToHost): void {
    if (this.#over.signal.aborted) return;
    if (this.#host !== null) this.#deliver(this.#id, message);
    else this.#broadcast({ kind: "to host", from: this.#id, message });
  }

  /** The elected tab hangs, or was suspended without a word: take its place. It notices when it wakes. */
  onSilence(): void {
    if (this.#host === null && !this.#over.signal.aborted && globalThis.document?.visibilityState !== "hidden") this.#stand({ steal: true });
  }

  close(): void {
    this.#over.abort();
    this.#stepDown();
    this.#channel.close();
  }

  #stand(options: LockOptions): void {
    navigator.locks
      .request(this.#name, options, () => {
        if (this.#over.signal.aborted) return;
        this.#host = new Host();
        this.#greeted = this.#id;
        this.#broadcast({ kind: "elected", host: this.#id });
        queueMicrotask(() => {
          if (this.#host !== null) this.#onHost();
        });
        return new Promise<void>((resolve) => (this.#release = resolve));
      })
      .catch(() => {
        // Another tab took the lock, or this one is closing.
        if (this.#over.signal.aborted) return;
        this.#stepDown();
        this.#stand({ signal: this.#over.signal });
      });
  }

  #stepDown(): void {
    this.#host?.close();
    this.#host = null;
    this.#tabs.clear();
    this.#release?.();
    this.#release = null;
  }

  #broadcast(envelope: Envelope): void {
    this.#channel.postMessage(envelope);
  }

  #receive(envelope: Envelope): void {
    switch (envelope.kind) {
      case "elected":
        if (this.#host !== null || this.#greeted === envelope.host) return;
        this.#greeted = envelope.host;
        return this.#onHost();
      case "new tab":
        if (this.#host !== null) this.#broadcast({ kind: "elected", host: this.#id });
        return;
      case "to host":
        if (this.#host !== null) this.#deliver(envelope.from, envelope.message);
        return;
      case "to tab":
        if (envelope.to === this.#id) this.#onMessage(envelope.message);
    }
  }

  #deliver(from: string, message: ToHost): void {
    const host = this.#host!;
    let tab = this.#tabs.get(from);
    if (tab === undefined) {
      if (message.type !== "hello") return; // its host was another
      tab = {
        post: (answer) => {
          if (from === this.#id) queueMicrotask(() => this.#over.signal.aborted || this.#onMessage(answer));
          else if (!this.#over.signal.aborted) this.#broadcast({ kind: "to tab", to: from, message: answer });
        },
      };
      this.#tabs.set(from, tab);
    }
    if (message.type === "hello" && from !== this.#id) this.#removeWhenGone(from, tab, message.lock);
    host.receive(tab, message);
    if (message.type === "bye") this.#tabs.delete(from);
  }

  #removeWhenGone(id: string, tab: Tab, lock: string): void {
    const host = this.#host;
    navigator.locks
      .request(lock, { signal: this.#over.signal }, () => {
        if (this.#host === host && this.#tabs.get(id) === tab) {
          this.#tabs.delete(id);
          host?.remove(tab);
        }
      })
      .catch(() => {}); // this tab is closing
  }
}
