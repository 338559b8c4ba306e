// What both elements have in common: which relay they follow, and as whom.

import { RelayClient } from "../client.js";
import type { TokenSource } from "../core/types.js";

interface Shared {
  readonly client: RelayClient<any>;
  users: number;
}

/** The clients of this page's elements: those with the same relay and token share one. */
const clients = new Map<string, Map<TokenSource | null, Shared>>();

/** Where this script came from, if a relay served it. */
const servedBy = /\/relay\.js(\?|$)/.test(import.meta.url) ? new URL("./", import.meta.url).href : null;

/** The base class of the elements. Elsewhere than in a browser there are none. */
const Base: typeof HTMLElement = globalThis.HTMLElement ?? (class {} as any);

export abstract class ConnectedElement extends Base {
  #token: TokenSource | null = null;
  #client: RelayClient<any> | null = null;
  #borrowed: { url: string; token: TokenSource | null; shared: Shared } | null = null;
  #isScheduled = false;
  #stop: (() => void) | null = null;

  /** The relay's address: by default the one that served relay.js, else that of the page. */
  get src(): string {
    return this.getAttribute("src") ?? servedBy ?? globalThis.location.origin;
  }

  set src(url: string) {
    this.setAttribute("src", url);
  }

  /** A token, or a callback that returns one for each connection. The attribute can only be a text. */
  get token(): TokenSource | null {
    return this.#token ?? this.getAttribute("token");
  }

  set token(token: TokenSource | null) {
    this.#token = token;
    this.changed();
  }

  /** A client of the page's own, in place of the one that elements share. */
  get client(): RelayClient<any> | null {
    return this.#client;
  }

  set client(client: RelayClient<any> | null) {
    this.#client = client;
    this.changed();
  }

  connectedCallback(): void {
    // Properties that were set before the element was defined.
    for (const name of ["token", "client"] as const) {
      if (!Object.hasOwn(this, name)) continue;
      const value = this[name];
      delete this[name];
      this[name] = value as any;
    }
    this.changed();
  }

  disconnectedCallback(): void {
    this.changed();
  }

  attributeChangedCallback(): void {
    this.changed();
  }

  /** Follow with this client. Returns what ends it. */
  protected abstract follow(client: RelayClient<any>): () => void;

  /** Follow again, once for all that has changed. */
  protected changed(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    queueMicrotask(() => {
      this.#isScheduled = false;
      this.#stop?.();
      this.#stop = null;
      const former = this.#borrowed;
      this.#borrowed = null;
      if (this.isConnected) this.#stop = this.follow(this.#client ?? this.#borrow());
      if (former !== null) giveBack(former);
    });
  }

  /** Dispatch an event to the page. It leaves shadow trees. */
  protected emit(type: string, detail: unknown): void {
    this.dispatchEvent(new CustomEvent(type, { detail, bubbles: true, composed: true }));
  }

  #borrow(): RelayClient<any> {
    const { token } = this;
    const url = this.src;
    const byToken = clients.get(url) ?? new Map<TokenSource | null, Shared>();
    clients.set(url, byToken);
    const api = this.getAttribute("api");
    let shared = byToken.get(token);
    if (shared === undefined) {
      // What does not work, the elements say themselves.
      shared = { client: new RelayClient(url, { token, onError: () => {}, ...(api === null ? {} : { api }) }), users: 0 };
      byToken.set(token, shared);
    }
    shared.users += 1;
    this.#borrowed = { url, token, shared };
    return shared.client;
  }
}

function giveBack({ url, token, shared }: { url: string; token: TokenSource | null; shared: Shared }): void {
  shared.users -= 1;
  // An element that is moved is soon back.
  setTimeout(() => {
    const byToken = clients.get(url);
    if (shared.users > 0 || byToken?.get(token) !== shared) return;
    byToken.delete(token);
    shared.client.close();
  }, 1000);
}
