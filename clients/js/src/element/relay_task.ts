// <relay-task task="demo">: a live bar of one task.

import type { RelayClient } from "../client.js";
import type { TaskState } from "../core/types.js";
import { ConnectedElement } from "./connected_element.js";
import { addStyles } from "./styles.js";
import { duration, Pace, timeOf, viewOf } from "./view.js";

/** Milliseconds between two looks at the time that is left. */
const TICK_MS = 1000;

/**
 * Attributes: `task` (its id), `src`, `token`, `label` (in place of the title).
 * Parts: base, header, title, status, bar, fill, footer, detail, eta, connection.
 * Events: relay-update (detail: the state), relay-status (detail: the status), relay-connection, relay-error.
 */
export class RelayTaskElement extends ConnectedElement {
  static observedAttributes = ["task", "src", "token", "api", "label"];

  readonly #nodes: { [name: string]: HTMLElement };
  #pace = new Pace();
  #state: TaskState | null = null;
  #tick: ReturnType<typeof setInterval> | undefined;

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    addStyles(root);
    const nodes: { [name: string]: HTMLElement } = {};
    const make = (name: string, className: string, ...children: HTMLElement[]): HTMLElement => {
      const node = (nodes[name] = document.createElement("div"));
      node.className = className;
      node.part.add(name);
      node.append(...children);
      return node;
    };
    const header = make("header", "row", make("title", "title"), make("status", "status"));
    const bar = make("bar", "bar", make("fill", "fill"));
    const footer = make("footer", "row", make("detail", "detail"), make("eta", "eta"));
    root.append(make("base", "base", header, bar, footer, make("connection", "connection"), make("announcement", "visually-hidden")));
    nodes["title"]!.id = "title";
    bar.setAttribute("role", "progressbar");
    bar.setAttribute("aria-labelledby", "title");
    bar.setAttribute("aria-valuemin", "0");
    bar.setAttribute("aria-valuemax", "100");
    nodes["announcement"]!.setAttribute("role", "status");
    this.#nodes = nodes;
  }

  /** The id of the task. */
  get task(): string | null {
    return this.getAttribute("task");
  }

  set task(id: string | null) {
    id === null ? this.removeAttribute("task") : this.setAttribute("task", id);
  }

  /** What is known of the task; null before it is followed. */
  get state(): TaskState | null {
    return this.#state;
  }

  protected follow(client: RelayClient<any>): () => void {
    const id = this.task;
    this.#pace = new Pace();
    if (id === null || id === "") {
      this.#state = null;
      this.#set("title", "no task is named");
      return () => {};
    }
    this.#tick = setInterval(() => this.#showLeft(), TICK_MS);
    const stop = client.task(id).subscribe((state) => this.#show(id, state));
    return () => {
      clearInterval(this.#tick);
      stop();
    };
  }

  #show(id: string, state: TaskState): void {
    const former = this.#state;
    this.#state = state;
    const view = viewOf(id, state);
    const { base, bar, fill } = this.#nodes;
    base!.dataset["tone"] = view.tone;
    this.#set("title", this.getAttribute("label") ?? view.title);
    this.#set("status", view.percent === null || state.status !== "in_progress" || state.stalled ? view.status : `${Math.floor(view.percent)} %`);
    this.#set("detail", view.detail);
    this.#set("connection", view.connection);
    // Of a task of which nothing is known, there is nothing to wait for yet.
    const isUnknown = view.percent === null && state.status === "in_progress";
    bar!.toggleAttribute("data-unknown", isUnknown);
    fill!.style.setProperty("--_rest", `${100 - (view.percent ?? 0)}%`);
    if (view.percent === null) bar!.removeAttribute("aria-valuenow");
    else bar!.setAttribute("aria-valuenow", String(Math.floor(view.percent)));
    bar!.setAttribute("aria-valuetext", [view.percent === null ? "" : `${Math.floor(view.percent)} %`, view.status, view.detail].filter(Boolean).join(", "));
    if (state.status === "in_progress") this.#pace.note(view.percent, Date.now());
    this.#showLeft();
    this.#announce(former, state, view.status);
  }

  #showLeft(): void {
    const state = this.#state;
    const isMoving = state?.status === "in_progress" && !state.stalled && state.connection === "live";
    const left = isMoving ? this.#pace.left(timeOf(state.data["started_at"]), Date.now()) : null;
    this.#set("eta", left === null ? "" : left < 1500 ? "almost done" : `about ${duration(left)} left`);
  }

  /** Screen readers announce a status, not every percent. */
  #announce(former: TaskState | null, state: TaskState, status: string): void {
    const isOther = former?.status !== state.status || former?.stalled !== state.stalled;
    if (isOther && former !== null && state.status !== undefined) {
      this.#set("announcement", `${this.#nodes["title"]!.textContent}: ${status}`);
      this.emit("relay-status", { task: this.task, status: state.status, stalled: state.stalled });
    }
    if (former?.data !== state.data) this.emit("relay-update", state);
    if (former?.connection !== state.connection) this.emit("relay-connection", { task: this.task, connection: state.connection });
    if (state.error !== null && former?.error !== state.error) this.emit("relay-error", state.error);
  }

  #set(name: string, text: string): void {
    const node = this.#nodes[name]!;
    if (node.textContent !== text) node.textContent = text;
  }
}
