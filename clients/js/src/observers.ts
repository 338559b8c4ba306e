// Callbacks that others gave us.

/** Call a callback. If it throws, the error is thrown uncaught, and the caller goes on. */
export function call<A extends unknown[]>(callback: (...args: A) => void, ...args: A): void {
  try {
    callback(...args);
  } catch (error) {
    throwLater(error);
  }
}

/** Throw where nothing catches it: the console of a browser, the end of a Node process. */
export function throwLater(error: unknown): void {
  queueMicrotask(() => {
    throw error;
  });
}

/** A value that changes, and those who want to know. */
export class Observable<T> {
  readonly #listeners = new Set<(value: T) => void>();
  value: T;

  constructor(value: T) {
    this.value = value;
  }

  get isObserved(): boolean {
    return this.#listeners.size > 0;
  }

  set(value: T): void {
    this.value = value;
    for (const listener of [...this.#listeners]) if (this.#listeners.has(listener)) call(listener, value);
  }

  /** Call the listener with the present value, and with each new one. Returns a function that ends it. */
  subscribe(listener: (value: T) => void): () => void {
    const own = (value: T): void => listener(value); // the same function may be given twice
    this.#listeners.add(own);
    call(own, this.value);
    return () => this.#listeners.delete(own);
  }

  clear(): void {
    this.#listeners.clear();
  }
}
