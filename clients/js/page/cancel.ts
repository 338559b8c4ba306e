// Cancelling a task: asked for, confirmed, and what really came of it.

import type { RelayClient, RelayTaskElement, TaskState } from "../src/element/index.js";
import { byId, setText } from "./dom.js";

const ENDED: { readonly [status: string]: string } = {
  cancelled: "The task was cancelled.",
  completed: "The task completed before it could be cancelled.",
  failed: "The task failed before it could be cancelled.",
};

export class Cancellation {
  readonly #relay: RelayClient;
  readonly #button = byId<HTMLButtonElement>("cancel");
  readonly #dialog = byId<HTMLDialogElement>("confirm-cancel");
  readonly #outcome = byId("outcome");
  #task: string | null = null;
  #isRequested = false;
  /** The relay has said that this viewer may not cancel, or that it cannot. */
  readonly #refused = new Set<string>();

  constructor(relay: RelayClient) {
    this.#relay = relay;
    this.#button.addEventListener("click", () => {
      setText(byId("confirm-title"), `Cancel “${byId<RelayTaskElement>("bar").state?.data.title ?? this.#task}”?`);
      this.#dialog.showModal();
    });
    this.#dialog.addEventListener("close", () => {
      if (this.#dialog.returnValue === "cancel") void this.#request();
      this.#dialog.returnValue = "";
    });
    for (const [id, answer] of [["confirm-yes", "cancel"], ["confirm-no", ""]] as const) {
      byId(id).addEventListener("click", () => this.#dialog.close(answer));
    }
  }

  /** Another task is shown. */
  begin(task: string | null): void {
    this.#task = task;
    this.#isRequested = false;
    setText(this.#outcome, "");
    this.#dialog.close("");
  }

  /** The task that is shown has changed. */
  show({ status, data }: TaskState): void {
    const isOver = status === undefined || Object.hasOwn(ENDED, status);
    // Only some workers receive requests, and say so.
    this.#button.hidden = isOver || data["cancellable"] !== true || this.#task === null || this.#refused.has(this.#task);
    this.#button.disabled = this.#isRequested;
    if (this.#isRequested && isOver && status !== undefined) {
      this.#isRequested = false;
      setText(this.#outcome, ENDED[status]!);
    }
  }

  async #request(): Promise<void> {
    const task = this.#task!;
    const say = (text: string): void => {
      if (this.#task === task) setText(this.#outcome, text);
    };
    this.#button.disabled = this.#isRequested = true;
    say("Asking for cancellation");
    const failed = (text: string, isFinal: boolean): void => {
      if (isFinal) this.#refused.add(task);
      if (this.#task !== task) return;
      this.#isRequested = false;
      this.#button.disabled = false;
      this.#button.hidden ||= isFinal;
      say(text);
    };
    try {
      const path = `tasks/${encodeURIComponent(task)}/cancel`;
      const headers = { "content-type": "application/json" };
      const response = await this.#relay.fetch(path, { method: "POST", headers, body: "{}", signal: AbortSignal.timeout(15_000) });
      const answer = await response.json().catch(() => null);
      const reason = typeof answer?.message === "string" ? answer.message : `status ${response.status}`;
      if (response.ok && answer?.outcome === "ended_before") {
        failed("The task had ended before.", true);
      } else if (response.ok) {
        if (this.#isRequested) say("Cancellation was requested. The task ends as soon as its worker reads that.");
      } else if ([401, 403, 404, 405].includes(response.status)) {
        failed(response.status === 403 || response.status === 401 ? "You may not cancel this task." : `It cannot be cancelled: ${reason}`, true);
      } else {
        failed(`It was not cancelled: ${reason}`, false);
      }
    } catch (error) {
      failed(`It is not known whether this arrived: ${error instanceof Error ? error.message : error}. Try again.`, false);
    }
  }
}
