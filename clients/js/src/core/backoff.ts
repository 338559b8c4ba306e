// How long to wait before the next attempt.

/** Full jitter: uniform between 0 and a bound that doubles with each attempt, up to the cap. */
export const fullJitter = (attempt: number, base: number, cap: number, random: () => number): number =>
  random() * Math.min(cap, base * 2 ** Math.min(attempt, 32));
