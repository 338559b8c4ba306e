// Time that the tests let pass.

/** Timers and the clock are the test's: returns a function that lets so many milliseconds pass. */
export function mockedClock(t) {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  let now = 0;
  t.mock.method(performance, "now", () => now);
  return (milliseconds) => {
    now += milliseconds;
    t.mock.timers.tick(milliseconds);
  };
}

/** How long it takes until the next connection is opened. */
export function untilNext(sockets, pass) {
  const before = sockets.length;
  for (let waited = 0; ; waited += 1) {
    if (sockets.length > before) return waited;
    pass(1);
  }
}
