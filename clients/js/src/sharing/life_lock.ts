// How a host learns that a tab is gone, however it ended.

/** A lock that a tab holds while it lives: whoever gets it knows that the tab is gone. */
export function holdLifeLock(): { readonly name: string; readonly release: () => void } {
  const name = `trio-relay-tab:${crypto.randomUUID()}`;
  let release = (): void => {};
  const released = new Promise<void>((resolve) => (release = resolve));
  void navigator.locks.request(name, () => released);
  return { name, release };
}
