// One task, a task with its children, or one channel without tasks, as a client's user sees it.

import { parentOf, taskIdOf } from "./core/channels.js";
import type { FamilyState, Fields, TaskFields, TaskState, Update } from "./core/types.js";
import type { Followed } from "./followed.js";
import { call } from "./observers.js";
import { type TextChunk, TextStream } from "./text_stream.js";
import { UpdateIterator } from "./update_iterator.js";

/** What a handle needs of its client. */
export interface Follows {
  /** The channel, from now on followed until `release` finds nobody. */
  acquire(name: string): Followed;
  release(followed: Followed): void;
  /** The state with which the client was made. */
  stored(name: string): Fields;
  /** What is known of a channel that may not be followed. */
  peek(name: string): TaskState<any>;
}

/**
 * The updates of one channel. They arrive while somebody wants them: a loop, `onUpdate`, or for tasks `subscribe`.
 */
export class ChannelHandle<F extends object = Fields> implements AsyncIterable<Update<F>> {
  /** "task:<id>", "family:<id>", "general" or "channel:<name>". */
  readonly channel: string;
  readonly #client: Follows;

  constructor(client: Follows, channel: string) {
    this.#client = client;
    this.channel = channel;
  }

  /**
   * Call a function with every update: each once and in order, or after one of type "reset", if some are missing.
   *
   * A task begins with its state, a family with those of its tasks. Returns a function that ends it.
   */
  onUpdate(listener: (update: Update<F>) => void): () => void {
    if (typeof listener !== "function") throw new TypeError("onUpdate needs a function");
    const followed = this.#client.acquire(this.channel);
    let isNew = true;
    const own = (update: Update<any>): void => {
      isNew = false;
      listener(update);
    };
    queueMicrotask(() => {
      if (!isNew) return;
      for (const first of followed.first()) if (followed.listeners.has(own)) call(own, first);
    });
    followed.listeners.add(own);
    return () => {
      followed.listeners.delete(own);
      this.#client.release(followed);
    };
  }

  /**
   * Iterate over the updates, as `onUpdate`. A task's loop ends after the update that ends the task; that of a family when its
   * children have ended, too.
   *
   * If the loop is slow, the updates that wait are merged when they are more than 1000. It throws a RelayError if the relay does not
   * deliver the channel, or if the client is closed.
   */
  [Symbol.asyncIterator](): UpdateIterator {
    const iterator = new UpdateIterator();
    const followed = this.#client.acquire(this.channel);
    iterator.onEnd(() => {
      followed.iterators.delete(iterator);
      this.#client.release(followed);
    });
    followed.iterators.add(iterator);
    const first = followed.first();
    for (const each of first) iterator.push(each);
    if (followed.error !== null) iterator.finish(followed.error);
    else if (first.length > 0 && TERMINAL_AND_CURRENT.has(this.#client.peek(this.channel).connection)) iterator.finish();
    return iterator;
  }

  protected get client(): Follows {
    return this.#client;
  }
}

const TERMINAL_AND_CURRENT = new Set(["complete"]);

/** A channel with a state, as an observable, which is also a Svelte store. */
abstract class StateHandle<F extends object, S extends TaskState<F>> extends ChannelHandle<F> {
  /** What is known now. The same object until something changes. */
  get state(): S {
    return this.client.peek(this.channel) as S;
  }

  /** Call a function with the state, and with each new one. It is followed meanwhile. Returns a function that ends it. */
  subscribe(listener: (state: S) => void): () => void {
    const followed = this.client.acquire(this.channel);
    const stop = followed.observable.subscribe((state) => listener(state as S));
    return () => {
      stop();
      this.client.release(followed);
    };
  }
}

/** A task together with its children, those of now and those that come: their updates, and their states. */
export class FamilyHandle<F extends object = TaskFields> extends StateHandle<F, FamilyState<F>> {
  /** The task whose children they are. */
  get id(): string {
    return parentOf(this.channel);
  }
}

/** One task: its updates and its state. */
export class TaskHandle<F extends object = TaskFields> extends StateHandle<F, TaskState<F>> {
  get id(): string {
    return taskIdOf(this.channel)!;
  }

  /**
   * Iterate over the pieces of a text that grows, until the task has ended.
   *
   * The first piece is the text so far. `known` is what of it the page has already, from before it was reloaded: it is not
   * repeated. By default that is the text in `states`, with which the client was made. If the text does not begin with it,
   * or is set to another one later, a piece with `isRestart` begins it again.
   */
  async *stream(field: string, options: { known?: string } = {}): AsyncGenerator<TextChunk, void> {
    const { known = this.client.stored(this.channel)[field] } = options;
    const text = new TextStream(field, typeof known === "string" ? known : "");
    for await (const update of this) {
      const chunk = text.take(update);
      if (chunk !== null) yield chunk;
    }
  }
}
