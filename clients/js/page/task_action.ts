// What a viewer may do with a task: asked for, confirmed, and what really came of it.

import { duration, type RelayClient, retryAfter, type TaskState, text } from "../src/element/index.js";
import { byId, cut, setText } from "./dom.js";

/** One action. Its button is #<name>, its dialog #confirm-<name>, with a heading and two buttons. */
export interface ActionKind {
  /** The path below the task in the relay's API. */
  readonly name: string;
  /** The dialog's heading. */
  question(title: string): string;
  /** While the relay has not answered. */
  readonly asking: string;
  /** The relay has taken the request. */
  readonly requested: string;
  /** The relay does not permit it to this viewer. */
  readonly forbidden: string;
  /** Begins the reason why it was not done. */
  readonly failed: string;
  /** Whether the task, as it is, can be asked for this. */
  isOffered(state: TaskState): boolean;
  /** What has come of the request, as far as the task shows; null while it does not. */
  outcome(state: TaskState): string | null;
}

const CANCELLED: { readonly [status: string]: string } = {
  cancelled: "The task was cancelled.",
  completed: "The task completed before it could be cancelled.",
  failed: "The task failed before it could be cancelled.",
};

export const CANCEL: ActionKind = {
  name: "cancel",
  question: (title) => `Cancel “${title}”?`,
  asking: "Asking for cancellation",
  requested: "Cancellation was requested. The task ends as soon as its worker reads that.",
  forbidden: "You may not cancel this task.",
  failed: "It was not cancelled",
  // Only some workers receive requests, and say so.
  isOffered: ({ status, data }) => data["cancellable"] === true && status !== undefined && !Object.hasOwn(CANCELLED, status),
  outcome: ({ status }) => (status === undefined ? null : (CANCELLED[status] ?? null)),
};

const RUNNING: { readonly [status: string]: string } = {
  in_progress: "The task runs again.",
  completed: "The task ran again, and completed.",
};

export const RETRY: ActionKind = {
  name: "retry",
  question: (title) => `Run “${title}” again?`,
  asking: "Asking for another run",
  requested: "The task is in the queue again. It runs as soon as a worker takes it.",
  forbidden: "You may not run this task again.",
  failed: "It does not run again",
  // Its worker has kept what it was to do.
  isOffered: ({ status, data }) => data["retryable"] === true && (status === "failed" || status === "cancelled"),
  outcome: ({ status }) => (status === undefined ? null : (RUNNING[status] ?? null)),
};

/** What came of a request that did not succeed: the words, and whether it is of no use to ask again. */
type Failure = readonly [text: string, isFinal: boolean];

export class TaskAction {
  readonly #relay: RelayClient;
  readonly #kind: ActionKind;
  readonly #button: HTMLButtonElement;
  readonly #dialog: HTMLDialogElement;
  readonly #say: (text: string) => void;
  #task: string | null = null;
  #title = "";
  #isRequested = false;
  /** Tasks for which the relay has said that this viewer may not do this, or that nobody can. */
  readonly #refused = new Set<string>();

  /** @param say shows what comes of a request */
  constructor(relay: RelayClient, kind: ActionKind, say: (text: string) => void) {
    this.#relay = relay;
    this.#kind = kind;
    this.#say = say;
    this.#button = byId<HTMLButtonElement>(kind.name);
    this.#dialog = byId<HTMLDialogElement>(`confirm-${kind.name}`);
    this.#button.addEventListener("click", () => {
      setText(this.#dialog.querySelector("h2")!, kind.question(cut(this.#title, 120)));
      this.#dialog.showModal();
    });
    this.#dialog.addEventListener("close", () => {
      if (this.#dialog.returnValue === "yes") void this.#request();
      this.#dialog.returnValue = "";
    });
    for (const button of this.#dialog.querySelectorAll("button")) button.addEventListener("click", () => this.#dialog.close(button.value));
  }

  /** Another task is shown. */
  begin(task: string | null): void {
    this.#task = task;
    this.#isRequested = false;
    this.#button.hidden = true;
    this.#dialog.close("");
  }

  /** The task that is shown has changed. */
  show(state: TaskState): void {
    const task = this.#task;
    this.#title = text(state.data.title) || (task ?? "");
    const isOffered = task !== null && !this.#refused.has(task) && this.#kind.isOffered(state);
    this.#button.hidden = !isOffered;
    this.#button.disabled = this.#isRequested;
    const outcome = this.#isRequested ? this.#kind.outcome(state) : null;
    if (outcome === null) return;
    this.#isRequested = false;
    this.#button.disabled = false;
    this.#say(outcome);
  }

  async #request(): Promise<void> {
    const task = this.#task!;
    this.#button.disabled = this.#isRequested = true;
    this.#say(this.#kind.asking);
    const failure = await this.#send(task);
    if (failure?.[1]) this.#refused.add(task);
    // Another task may be shown by now, or this one may have changed already.
    if (this.#task !== task || !this.#isRequested) return;
    if (failure === null) return this.#say(this.#kind.requested);
    this.#isRequested = false;
    this.#button.disabled = false;
    this.#button.hidden ||= failure[1];
    this.#say(failure[0]);
  }

  async #send(task: string): Promise<Failure | null> {
    const { name, forbidden, failed } = this.#kind;
    try {
      const path = `tasks/${encodeURIComponent(task)}/${name}`;
      const response = await this.#relay.fetch(path, { method: "POST", signal: AbortSignal.timeout(15_000) });
      const answer = await response.json().catch(() => null);
      if (response.ok) return answer?.outcome === "ended_before" ? ["The task had ended before.", true] : null;
      if (response.status === 401 || response.status === 403) return [forbidden, true];
      const reason = typeof answer?.message === "string" ? answer.message : `status ${response.status}`;
      const wait = retryAfter(response);
      const advice = wait > 0 ? `. Try again in ${duration(wait)}.` : "";
      return [`${failed}: ${reason}${advice}`, response.status === 404 || response.status === 405 || answer?.code === "not_retryable"];
    } catch (error) {
      return [`It is not known whether this arrived: ${error instanceof Error ? error.message : error}. Try again.`, false];
    }
  }
}
