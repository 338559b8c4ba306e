// A list of tasks: read by HTTP, read again from time to time, and live where somebody looks.

import { RelayError } from "./core/errors.js";
import { retryAfter } from "./core/retry_after.js";
import type { ConnectionState, Fields, ListedTask, TaskFields, TaskFilter, TaskListState } from "./core/types.js";
import { call, Observable } from "./observers.js";
import type { ChannelHandle, TaskHandle } from "./task.js";

/** Tasks in one answer of the relay, at most. */
const PAGE = 500;

/** One in so many reads takes the whole list, to drop tasks that the relay no longer has. */
const FULL_READ_EVERY = 12;

/** Requests of one reading, at most: with a filter, an answer may have few tasks and still not be the last. */
const MAX_REQUESTS = 100;

/** Milliseconds between two notifications: a thousand tasks may move at once. */
const NOTIFY_MS = 100;

/** Milliseconds for the relay to answer. */
const REQUEST_TIMEOUT_MS = 15_000;

export interface TaskListOptions {
  /** Milliseconds between two readings of the list. Default 5000. A task that is announced is there at once. */
  refresh?: number;
  /** Most tasks that are followed live: the first of the list, or those given to `watch`. Default 100. */
  live?: number;
}

/** What a list needs of its client. */
export interface ListSource<F extends object> {
  task(id: string): TaskHandle<F>;
  general(): ChannelHandle<any>;
  readonly connection: Observable<ConnectionState>;
  fetch(path: string, init: RequestInit): Promise<Response>;
}

interface Answer {
  readonly tasks: { task_id: string; active?: number; data: Fields; owner?: string[] | string; parent_id?: string; run?: number }[];
  readonly next: string | null;
}

interface Entry<F extends object> {
  task: ListedTask<F>;
  /** The reading that last had it. */
  reading: number;
}

/** An observable list, which is also a Svelte store. It is read and followed while somebody observes it. */
export class TaskList<F extends object = TaskFields> {
  readonly #source: ListSource<F>;
  readonly #filter: TaskFilter;
  readonly #refresh: number;
  readonly #live: number;
  readonly #observable: Observable<TaskListState<F>>;
  readonly #entries = new Map<string, Entry<F>>();
  readonly #followed = new Map<string, () => void>();
  /** Those of them whose first state has come. */
  readonly #begun = new Set<string>();
  #watched: readonly string[] | null = null;
  #observers = 0;
  #stop: (() => void) | null = null;
  #reading = 0;
  #etag: string | null = null;
  #newest = -Infinity;
  /** When the relay wants to be asked again, as `performance.now()`. */
  #busyUntil = 0;
  #isTruncated = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #notifying: ReturnType<typeof setTimeout> | undefined;

  constructor(source: ListSource<F>, filter: TaskFilter, options: TaskListOptions) {
    this.#source = source;
    this.#filter = filter;
    this.#refresh = options.refresh ?? 5_000;
    this.#live = options.live ?? 100;
    const connection = source.connection.value;
    this.#observable = new Observable<TaskListState<F>>({ tasks: [], isLoading: true, isTruncated: false, connection, error: null });
  }

  /** What is known now. The same object until something changes. */
  get state(): TaskListState<F> {
    return this.#observable.value;
  }

  /** Call a function with the list, and with each new one, ten per second at most. Returns a function that ends it. */
  subscribe(listener: (state: TaskListState<F>) => void): () => void {
    const stop = this.#observable.subscribe(listener);
    if (this.#observers++ === 0) this.#begin();
    let isOver = false;
    return () => {
      if (isOver) return;
      isOver = true;
      stop();
      if (--this.#observers === 0) this.#end();
    };
  }

  /** Follow these live from now on: those that are on the screen. */
  watch(ids: Iterable<string>): void {
    this.#watched = [...ids];
    if (this.#observers > 0) this.#follow();
  }

  /** Read the list now, or as soon as a busy relay permits it, and not only when its time has come. */
  refresh(): void {
    if (this.#observers > 0) this.#readIn(0);
  }

  #begin(): void {
    let isOver = false;
    const loop = this.#source.general()[Symbol.asyncIterator]();
    const announcements = async (): Promise<void> => {
      for await (const { data } of loop) if (!isOver && data.type === "task_created") this.#announced(data.task_info);
    };
    announcements().catch(() => {}); // without general updates, new tasks are found when the list is read again
    const stopConnection = this.#source.connection.subscribe((connection) => this.#patch({ connection }));
    this.#stop = () => {
      isOver = true;
      void loop.return();
      stopConnection();
    };
    this.#readIn(0);
  }

  #end(): void {
    clearTimeout(this.#timer);
    clearTimeout(this.#notifying);
    this.#notifying = undefined;
    this.#stop?.();
    this.#stop = null;
    for (const stop of this.#followed.values()) stop();
    this.#followed.clear();
    this.#begun.clear();
    this.#etag = null;
  }

  #readIn(wait: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(async () => {
      const stop = this.#stop;
      // A page that nobody sees reads nothing.
      const error = globalThis.document?.visibilityState === "hidden" && !this.state.isLoading ? this.state.error : await this.#read(stop);
      if (this.#stop !== stop || stop === null) return;
      if (error !== this.state.error) this.#patch({ error });
      this.#readIn(this.#refresh * (0.9 + 0.2 * Math.random()));
    }, Math.max(wait, this.#busyUntil - performance.now()));
  }

  /** Read what is new, or everything. Returns the error if that fails. */
  async #read(stop: unknown): Promise<RelayError | null> {
    // Those that no longer fit a filter of the relay are not in its answer: only a whole reading shows that they are gone.
    const isWhole = this.#reading % FULL_READ_EVERY === 0 || this.#filter.status !== undefined || this.#filter.text !== undefined;
    this.#reading += 1;
    const limit = this.#filter.limit ?? 1_000;
    let count = 0;
    let requests = 0;
    let newest = this.#newest;
    let after: string | null = null;
    let etag: string | null = null;
    try {
      do {
        const isFirst: boolean = after === null;
        const headers: Record<string, string> = isFirst && this.#etag !== null ? { "if-none-match": this.#etag } : {};
        const signal = AbortSignal.timeout(REQUEST_TIMEOUT_MS);
        const response = await this.#source.fetch(`tasks?${this.#query(Math.min(PAGE, limit - count), after)}`, { headers, signal, cache: "no-store" });
        if (response.status === 304) return null;
        if (!response.ok) {
          this.#busyUntil = performance.now() + retryAfter(response);
          return await refusal(response);
        }
        const answer: Answer = await response.json();
        if (this.#stop !== stop) return null;
        if (isFirst) etag = response.headers.get("etag");
        let isKnown = false;
        for (const item of answer.tasks) {
          newest = Math.max(newest, item.active ?? 0);
          isKnown ||= (item.active ?? 0) < this.#newest;
          this.#take(item);
        }
        count += answer.tasks.length;
        after = answer.next;
        this.#notifySoon();
        if (!isWhole && isKnown) break;
        if (isWhole) this.#isTruncated = after !== null;
      } while (after !== null && count < limit && ++requests < MAX_REQUESTS);
    } catch (error) {
      return new RelayError(`the list cannot be read: ${error instanceof Error ? error.message : error}`, null);
    }
    this.#newest = newest;
    this.#etag = etag;
    if (isWhole) this.#dropUnlisted();
    return null;
  }

  #query(limit: number, after: string | null): URLSearchParams {
    const { status, owner, kind, parentId, text } = this.#filter;
    const query = new URLSearchParams({ limit: String(limit) });
    if (status !== undefined) query.set("status", [status].flat().join(","));
    if (owner !== undefined) query.set("owner", owner);
    if (kind !== undefined) query.set("kind", kind);
    if (parentId !== undefined) query.set("parent", parentId);
    if (text !== undefined) query.set("text", text);
    if (after !== null) query.set("after", after);
    return query;
  }

  #take({ task_id: id, active = 0, data, owner, parent_id: parentId, run }: Answer["tasks"][number]): void {
    const known = this.#entries.get(id)?.task;
    // What is followed is newer than any list.
    const isNewer = known !== undefined && this.#followed.has(id) && Object.keys(known.data).length > 0;
    const task = {
      id,
      data: (isNewer ? known.data : data) as Readonly<Partial<F>>,
      active: Math.max(active * 1000, known?.active ?? 0),
      owner: owner === undefined ? [] : [owner].flat(),
      parentId: parentId ?? null,
      ...(run === undefined ? {} : { run }),
    };
    this.#entries.set(id, { task, reading: this.#reading });
  }

  #dropUnlisted(): void {
    for (const [id, { reading }] of this.#entries) if (reading !== this.#reading) this.#entries.delete(id);
    this.#notifySoon();
  }

  #announced(info: Fields | undefined): void {
    const { task_id: id, ...data } = info ?? {};
    if (id === undefined || this.#filter.owner !== undefined || this.#filter.parentId !== undefined) return; // it has neither
    this.#entries.set(String(id), {
      task: { id: String(id), data: data as Readonly<Partial<F>>, active: Date.now(), owner: [], parentId: null },
      reading: this.#reading,
    });
    this.#notifySoon();
  }

  #fits({ id, data }: ListedTask<F>): boolean {
    const { status, kind, text } = this.#filter;
    const fields: Fields = data;
    if (status !== undefined && ![status].flat().includes(fields["status"])) return false;
    if (kind !== undefined && fields["kind"] !== kind) return false;
    return text === undefined || matches(id, fields, text);
  }

  /** Follow what is to be live, and leave what is not. */
  #follow(): void {
    const ids = new Set((this.#watched ?? this.state.tasks.map(({ id }) => id)).slice(0, this.#live));
    for (const [id, stop] of this.#followed) {
      if (ids.has(id)) continue;
      this.#followed.delete(id);
      this.#begun.delete(id);
      stop();
    }
    for (const id of ids) {
      if (this.#followed.has(id)) continue;
      this.#followed.set(id, () => {});
      const stop = this.#source.task(id).subscribe(({ data }) => this.#moved(id, data));
      this.#followed.set(id, stop);
    }
  }

  #moved(id: string, data: Readonly<Partial<F>>): void {
    const entry = this.#entries.get(id);
    if (entry === undefined || Object.keys(data).length === 0 || entry.task.data === data) return;
    // The first state is what the list has, too; what comes after it is activity.
    entry.task = { ...entry.task, data, active: this.#begun.has(id) ? Date.now() : entry.task.active };
    this.#begun.add(id);
    this.#notifySoon();
  }

  #notifySoon(): void {
    this.#notifying ??= setTimeout(() => {
      this.#notifying = undefined;
      const limit = this.#filter.limit ?? 1_000;
      const all: ListedTask<F>[] = [];
      for (const { task } of this.#entries.values()) if (this.#fits(task)) all.push(task);
      all.sort((a, b) => b.active - a.active || (a.id < b.id ? -1 : 1));
      for (const { id } of all.splice(limit)) this.#entries.delete(id);
      this.#patch({ tasks: all, isLoading: false, isTruncated: this.#isTruncated });
      this.#follow();
    }, NOTIFY_MS);
  }

  #patch(change: Partial<TaskListState<F>>): void {
    call((state) => this.#observable.set(state), { ...this.#observable.value, ...change });
  }
}

async function refusal(response: Response): Promise<RelayError> {
  const answer = await response.json().catch(() => null);
  const message = typeof answer?.message === "string" ? answer.message : response.statusText;
  const text = `the list cannot be read: ${message} (HTTP ${response.status})`;
  return new RelayError(text, answer?.code ?? response.status, null, retryAfter(response));
}

/** Whether all words are in the task's id or its texts. */
export function matches(id: string, data: Fields, text: string): boolean {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const texts = [id, data["title"], data["kind"], data["message"], data["stage"], data["worker"], data["error"]];
  const all = texts.filter((each) => typeof each === "string").join("\n").toLowerCase();
  return words.every((word) => all.includes(word));
}
