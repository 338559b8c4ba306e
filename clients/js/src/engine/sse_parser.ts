// The text of an event stream, in pieces as it arrives, into the data of its events (HTML standard, section 9.2.6).

import { bounded } from "../core/retry_after.js";

/** Longest line and longest event that are kept, in characters: what is longer is no stream of a relay. */
const MAX_LENGTH = 16 * 2 ** 20;

export class SseParser {
  /** Milliseconds for which a client is to stay away when the stream has ended. */
  retry = 0;
  #rest = "";
  #data: string[] = [];
  #length = 0;

  /** Take a piece; returns the data of the events that end in it. Throws RangeError if a line or an event is too long. */
  push(piece: string): string[] {
    const events: string[] = [];
    const lines = (this.#rest + piece).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop()!;
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length > 0) events.push(this.#data.join("\n"));
        this.#data = [];
        this.#length = 0;
      } else if (line.startsWith("data:")) {
        const value = line.slice(line[5] === " " ? 6 : 5);
        this.#data.push(value);
        this.#length += value.length;
      } else if (/^retry: ?\d+$/.test(line)) {
        this.retry = bounded(Number(line.slice(6)));
      } // comments and the other fields do not matter here
    }
    if (this.#rest.length > MAX_LENGTH || this.#length > MAX_LENGTH) throw new RangeError("an event that is too long");
    return events;
  }
}
