// Follow tasks, tasks with their children, lists of tasks, general updates and extra channels of a relay.
//
//   const relay = new RelayClient("https://relay.example");
//   for await (const { state } of relay.task("demo")) console.log(state.progress);
//
// After a broken connection or a restart of the relay it resumes: every update arrives once and in order, or one of type "reset"
// comes, which says that some are missing.

import { checkedTaskId, EXTRA_PREFIX, FAMILY_PREFIX, GENERAL, isFamily, TASK_PREFIX } from "./core/channels.js";
import { RelayError } from "./core/errors.js";
import type { ConnectionState, Fields, Position, TaskFields, TaskFilter, TokenSource } from "./core/types.js";
import { type EngineOptions, httpUrl, type Resolved, resolved, type Resume, socketUrl } from "./engine/options.js";
import { tokenOf } from "./engine/token.js";
import { type Followed, unknownTask } from "./followed.js";
import { followedOf, unknownFamily } from "./followed_family.js";
import { call, Observable, throwLater } from "./observers.js";
import { followPage } from "./page_lifecycle.js";
import { canElect, election } from "./sharing/election.js";
import type { Feed, FeedEvents } from "./sharing/feed.js";
import { identityOf } from "./sharing/identity.js";
import { LocalFeed } from "./sharing/local_feed.js";
import { PendingFeed } from "./sharing/pending_feed.js";
import { SharedFeed } from "./sharing/shared_feed.js";
import { canShareWorker, workerLink } from "./sharing/worker_link.js";
import { ChannelHandle, FamilyHandle, type Follows, TaskHandle } from "./task.js";
import { TaskList, type TaskListOptions } from "./task_list.js";

/** Milliseconds for which a channel is still followed when nobody wants it any more: a component that is mounted again finds it. */
const LINGER_MS = 50;

export interface RelayClientOptions extends EngineOptions, Resume {
  /** The path before `/tasks` of the relay's HTTP API (RELAY_API_PREFIX). Default "/api". */
  api?: string;
  /**
   * Whether the tabs of an origin share one connection: those whose clients have the same URL and, with a `token` callback, whose
   * tokens permit the same to the same user. With a name here, those with the same name: then different users must have different
   * ones. Default: true in a page, unless `token` is a text or `WebSocket` is given.
   */
  shared?: boolean | string;
  /** The address of this package's shared worker, of the page's own origin. Without it the tabs elect one of them. */
  worker?: string | URL | null;
  /** Called when the connection is opened or lost. */
  onConnection?: (state: ConnectionState) => void;
  /** Called when a channel cannot be followed, or the relay does not accept this client. By default it is thrown uncaught, where no loop and no state has it. */
  onError?: (error: RelayError) => void;
}

/**
 * A subscriber of one relay. It connects at once, and again whenever the connection is lost, until `close`.
 *
 * If a callback throws, the error is thrown uncaught, and the other callbacks are called all the same.
 *
 * `Task` and `General` are the fields of tasks and of general updates; each call may name others.
 */
export class RelayClient<Task extends object = TaskFields, General extends object = Fields> {
  readonly #url: URL;
  readonly #options: Resolved;
  readonly #onConnection: (state: ConnectionState) => void;
  readonly #onError: ((error: RelayError) => void) | null;
  readonly #followed = new Map<string, Followed>();
  readonly #resume: Map<string, { position: Position; state: Fields }>;
  readonly #connection: Observable<ConnectionState>;
  readonly #follows: Follows;
  readonly #leavePage: () => void;
  readonly #api: string;
  #feed: Feed;
  /** What is known of what nobody follows. */
  #idle = { task: unknownTask("idle"), family: unknownFamily("idle") };
  #isClosed = false;
  /** Why the relay does not accept this client. */
  #rejection: RelayError | null = null;

  /**
   * @param url of the relay: https://host, wss://host/ws/tasks, or in a browser a path, such as "/ws/tasks"
   * @throws TypeError if the URL is wrong or there is no WebSocket; RangeError if a time is not positive
   */
  constructor(url: string | URL, options: RelayClientOptions = {}) {
    const { api, shared, worker, onConnection, onError, positions, states, ...engine } = options;
    this.#options = resolved(engine);
    this.#url = socketUrl(url);
    this.#api = `${(api ?? "/api").replace(/\/+$/, "")}/`;
    this.#onConnection = onConnection ?? (() => {});
    this.#onError = onError ?? null;
    const given = Object.entries(positions ?? {});
    this.#resume = new Map(given.map(([name, position]) => [name, { position, state: states?.[name] ?? {} }]));
    this.#follows = {
      acquire: (name) => this.#acquire(name),
      release: (followed) => this.#release(followed),
      stored: (name) => states?.[name] ?? {},
      peek: (name) => this.#followed.get(name)?.observable.value ?? this.#idle[isFamily(name) ? "family" : "task"],
    };
    this.#connection = new Observable<ConnectionState>({
      status: "connecting",
      transport: null,
      isRedisAvailable: true,
      retryAt: null,
      detail: "",
    });
    this.#feed = this.#makeFeed(engine, shared, worker ?? null);
    this.#leavePage = followPage(() => this.#feed);
  }

  /** The connection as it is now, and each change of it. */
  get connection(): { readonly state: ConnectionState; subscribe(listener: (state: ConnectionState) => void): () => void } {
    const observable = this.#connection;
    return { state: observable.value, subscribe: (listener) => observable.subscribe(listener) };
  }

  /** A task. Its handle is an async iterable of updates, and an observable state. */
  task<F extends object = Task>(taskId: string | number): TaskHandle<F> {
    return new TaskHandle<F>(this.#follows, TASK_PREFIX + checkedTaskId(taskId));
  }

  /**
   * A task together with all its children, present and future: one subscription with one position. `taskId` of an update says which
   * of them it is of.
   */
  family<F extends object = Task>(taskId: string | number): FamilyHandle<F> {
    return new FamilyHandle<F>(this.#follows, FAMILY_PREFIX + checkedTaskId(taskId));
  }

  /** The general updates. */
  general<F extends object = General>(): ChannelHandle<F> {
    return new ChannelHandle<F>(this.#follows, GENERAL);
  }

  /** One of the relay's extra channels (RELAY_EXTRA_CHANNELS). */
  channel<F extends object = Fields>(name: string): ChannelHandle<F> {
    if (typeof name !== "string" || name === "") throw new RangeError("an extra channel has a name");
    return new ChannelHandle<F>(this.#follows, EXTRA_PREFIX + name);
  }

  /** A list of tasks, which is read by HTTP, and kept up to date. */
  tasks<F extends object = Task>(filter: TaskFilter = {}, options: TaskListOptions = {}): TaskList<F> {
    return new TaskList<F>(
      {
        task: (id) => this.task<F>(id),
        general: () => this.general(),
        connection: this.#connection,
        fetch: (path, init) => this.fetch(path, init),
      },
      filter,
      options,
    );
  }

  /** The address of one task in the relay's HTTP API, or of something below it, such as "cancel". */
  taskUrl(taskId: string | number, below = ""): string {
    const path = `${this.#api}tasks/${encodeURIComponent(checkedTaskId(taskId))}${below === "" ? "" : `/${below}`}`;
    return httpUrl(this.#url, path).href;
  }

  /** A request to the relay's HTTP API, with the token if there is one. `path` is below RELAY_API_PREFIX, such as "tasks". */
  async fetch(path: string, init: RequestInit = {}): Promise<Response> {
    const headers = new Headers(init.headers);
    const { token, tokenTimeout } = this.#options;
    if (token !== null) headers.set("authorization", `Bearer ${await tokenOf(token, tokenTimeout)}`);
    const [pathname, search] = path.split("?", 2);
    const url = httpUrl(this.#url, this.#api + pathname);
    url.search = search ?? "";
    return fetch(url, { ...init, headers });
  }

  /** By channel, the position of the last update. Give it to the next client as `positions`, to resume from here. */
  get positions(): { [channel: string]: Position } {
    return Object.fromEntries([...this.#followed.values()].flatMap(({ name, position }) => (position === null ? [] : [[name, position]])));
  }

  /** By channel of a task or a family, the states at these positions: `states` of the next client. */
  get states(): { [channel: string]: Fields } {
    const known = [...this.#followed.values()].filter(
      ({ name, position }) => position !== null && (name.startsWith(TASK_PREFIX) || isFamily(name)),
    );
    return Object.fromEntries(known.map(({ name, state }) => [name, isFamily(name) ? { ...state } : state]));
  }

  /** Close the connection: no callback is called any more, and loops end with an error. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#leavePage();
    this.#feed.close();
    for (const followed of this.#followed.values()) {
      clearTimeout(followed.leaving);
      followed.listeners.clear();
      followed.observable.clear();
      for (const iterator of [...followed.iterators]) iterator.finish(this.#closedError(followed.name));
    }
    this.#followed.clear();
    this.#connection.clear();
    this.#idle = { task: unknownTask("closed"), family: unknownFamily("closed") };
  }

  #makeFeed(engine: EngineOptions, shared: boolean | string | undefined, worker: string | URL | null): Feed {
    const events: FeedEvents = {
      onUpdate: (name, update) => this.#followed.get(name)?.take(update, this.#connection.value),
      onStatus: (name, status, position) => this.#onStatus(name, status, position),
      onConnection: (state) => this.#changed(state),
      onError: (error) => this.#refused(error),
    };
    const inPage = globalThis.document !== undefined;
    const { token, WebSocket: _, random: __, ...sent } = engine;
    const isShared = shared ?? (inPage && typeof token !== "string" && engine.WebSocket === undefined);
    const own = (): Feed => new LocalFeed(this.#url, this.#options, events);
    if (isShared === false) return own();
    const options = { ...sent, tokenTimeout: this.#options.tokenTimeout };
    const sharedWith = (name: string, source: TokenSource | null): Feed => {
      const key = `${this.#url.href}${name === "" ? "" : ` ${name}`}`;
      const elected = (): Feed => (canElect() ? new SharedFeed(this.#url, options, source, election(key), events) : own());
      if (worker === null || !canShareWorker()) return elected();
      const byWorker = workerLink(worker, key, () => this.#replaceFeed(elected));
      return new SharedFeed(this.#url, options, source, byWorker, events);
    };
    // A name says who shares it. Without one, and with a token, the token says it.
    if (typeof isShared === "string") return sharedWith(isShared, token ?? null);
    return typeof token === "function" ? this.#feedByToken(token, sharedWith, own) : sharedWith("", token ?? null);
  }

  /** A feed that is shared with those only whose tokens permit the same; another one, if the callback returns somebody else's. */
  #feedByToken(callback: () => string | Promise<string>, sharedWith: (name: string, source: TokenSource) => Feed, own: () => Feed): Feed {
    const join = (identity: string): void => {
      // The connection may need a token in hours, or never: one that was kept until then would be old.
      const source = async (): Promise<string> => {
        const token = await callback();
        const next = await identityOf(token);
        if (next === identity) return token;
        join(next);
        throw new Error("the token is another user's");
      };
      this.#replaceFeed(() => sharedWith(identity, source));
    };
    const begin = async (): Promise<void> => {
      join(await identityOf(await tokenOf(callback, this.#options.tokenTimeout)));
    };
    // Without a token, or a secure context, the page has a connection of its own, which says what is wrong and tries again.
    begin().catch(() => this.#replaceFeed(own));
    return new PendingFeed(this.#connection.value);
  }

  /** Go another way, with all that is followed: the shared worker cannot be used, or the connection is another user's. */
  #replaceFeed(make: () => Feed): void {
    if (this.#isClosed) return;
    const former = this.#feed;
    former.close();
    this.#feed = make();
    for (const { name, position, state } of this.#followed.values()) this.#feed.follow(name, position, state);
    if (former instanceof PendingFeed && former.paused !== null) this.#feed.pause(former.paused);
  }

  #acquire(name: string): Followed {
    if (this.#isClosed || this.#rejection !== null) throw this.#closedError(name);
    let followed = this.#followed.get(name);
    if (followed?.error != null) {
      this.#followed.delete(name); // it is tried again
      followed = undefined;
    }
    if (followed === undefined) {
      const stored = this.#resume.get(name);
      this.#resume.delete(name);
      followed = followedOf(name, stored?.position ?? null, stored?.state ?? {}).begin(this.#connection.value);
      this.#followed.set(name, followed);
      this.#feed.follow(name, followed.position, followed.state);
    }
    clearTimeout(followed.leaving);
    return followed;
  }

  #release(followed: Followed): void {
    if (followed.isWanted || this.#followed.get(followed.name) !== followed) return;
    clearTimeout(followed.leaving);
    followed.leaving = setTimeout(() => {
      if (followed.isWanted || this.#followed.get(followed.name) !== followed) return;
      this.#followed.delete(followed.name);
      this.#feed.leave(followed.name);
    }, LINGER_MS);
  }

  #onStatus(name: string, status: Followed["status"], position: Position | null): void {
    const followed = this.#followed.get(name);
    if (followed === undefined) return;
    followed.status = status;
    if (status === "live" && position !== null) followed.position = position;
    followed.refresh(this.#connection.value);
  }

  #changed(state: ConnectionState): void {
    if (this.#isClosed) return;
    this.#connection.set(state);
    for (const followed of this.#followed.values()) {
      if (state.status !== "live") followed.status = "connecting"; // as it will be when the connection is open again
      followed.refresh(state);
    }
    call(this.#onConnection, state);
  }

  /** The relay does not deliver one channel, or nothing at all. */
  #refused(error: RelayError): void {
    const concerned = error.channel === null ? [...this.#followed.values()] : [this.#followed.get(error.channel)];
    if (error.channel === null) this.#rejection = error;
    for (const followed of concerned) {
      if (followed === undefined) continue;
      followed.error = error;
      followed.refresh(this.#connection.value);
      for (const iterator of [...followed.iterators]) iterator.finish(error);
    }
    if (this.#onError !== null) call(this.#onError, error);
    else if (error.channel === null || concerned[0] === undefined || concerned[0].listeners.size > 0) throwLater(error); // loops and states have it
  }

  #closedError(name: string): RelayError {
    const why = this.#rejection === null ? "this client is closed" : this.#rejection.message;
    return new RelayError(`${why}; make another RelayClient`, this.#rejection?.code ?? null, name);
  }
}
