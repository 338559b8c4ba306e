// The history of one task, as it can be told from its updates: its stages and its messages.

import { type Fields, text, type Update } from "../src/element/index.js";

/** Lines that are kept: the oldest go first. */
const MAX_LINES = 500;

export interface Line {
  readonly at: number | null;
  readonly text: string;
  readonly percent: number | null;
  readonly isStage: boolean;
}

export interface Stage {
  readonly name: string;
  /** When it began, as far as that was seen. */
  readonly at: number | null;
  /** The task's progress when it began. */
  readonly percent: number | null;
}

export class Log {
  readonly lines: Line[] = [];
  readonly stages: Stage[] = [];
  /** Earlier updates are not stored any more. */
  isTruncated = false;
  #isStalled = false;

  /** Take an update; `at` is when it arrived, or null for one of the past. */
  take({ type, data, state, isState }: Update, at: number | null): void {
    if (type === "reset") {
      this.lines.length = this.stages.length = 0;
      return;
    }
    if (isState) this.isTruncated = true;
    const percent = typeof state.progress === "number" ? state.progress : null;
    const fields: Fields = data;
    const stage = text(fields["stage"]);
    if (stage !== "" && stage !== this.stages.at(-1)?.name) {
      this.stages.push({ name: stage, at, percent });
      if (this.stages.length > MAX_LINES) this.stages.shift();
    }
    const status = text(fields["status"]);
    const words = [status.replaceAll("_", " "), text(fields["error"]) || text(fields["message"])].filter(Boolean);
    const isStalled = state.stalled === true;
    if (isStalled !== this.#isStalled) words.push(isStalled ? "stalled: nobody reports on it" : "goes on");
    this.#isStalled = isStalled;
    const line = words.join(": ") || (stage === "" ? "" : stage.replaceAll("_", " "));
    if (line === "" || line === this.lines.at(-1)?.text) return;
    this.lines.push({ at, text: line, percent, isStage: stage !== "" });
    if (this.lines.length > MAX_LINES) {
      this.lines.shift();
      this.isTruncated = true;
    }
  }
}
