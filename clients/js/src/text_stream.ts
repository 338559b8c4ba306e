// A text that grows, piece by piece.

import type { Fields, Update } from "./core/types.js";

/** A piece of a text. It can be used as a text: `output.append(chunk)`. */
export class TextChunk {
  readonly text: string;
  /** The text begins again with this piece: what came before no longer counts. */
  readonly isRestart: boolean;

  constructor(text: string, isRestart: boolean) {
    this.text = text;
    this.isRestart = isRestart;
  }

  toString(): string {
    return this.text;
  }
}

/** What of a field's text is new, update by update. After a reset nothing is repeated if the text goes on. */
export class TextStream {
  readonly #field: string;
  #known: string;

  constructor(field: string, known: string) {
    this.#field = field;
    this.#known = known;
  }

  /** The piece that an update brings; null if it brings none. */
  take({ type, state }: Update<Fields>): TextChunk | null {
    if (type === "reset") return null; // the state follows
    const value = (state as Fields)[this.#field];
    const text = typeof value === "string" ? value : "";
    const known = this.#known;
    if (text === known) return null;
    this.#known = text;
    return text.startsWith(known) ? new TextChunk(text.slice(known.length), false) : new TextChunk(text, true);
  }
}
