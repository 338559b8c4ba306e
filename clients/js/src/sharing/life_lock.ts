// How a host learns that a tab is gone, however it ended.

export interface LifeLock {
  readonly name: string;
  /** Resolves when the tab holds the lock: only then may a host ask for it. */
  readonly held: Promise<void>;
  readonly release: () => void;
}

/** A lock that a tab holds while it lives: another tab that gets it knows that the tab is gone. */
export function holdLifeLock(): LifeLock {
  const name = `trio-relay-tab:${crypto.randomUUID()}`;
  let release = (): void => {};
  const released = new Promise<void>((resolve) => (release = resolve));
  const held = new Promise<void>((resolve) => {
    void navigator.locks.request(name, () => {
      resolve();
      return released;
    });
  });
  return { name, held, release };
}
