// One task, in full.

import {
  type ListedTask,
  RelayClient,
  type RelayTaskElement,
  type TaskListState,
  type TaskState,
  text,
  type TokenSource,
} from "../src/element/index.js";
import { Cancellation } from "./cancel.js";
import { byId, cut, h, setText } from "./dom.js";
import { children, facts, results } from "./facts.js";
import { Log } from "./log.js";

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

interface Surroundings {
  readonly relay: RelayClient;
  readonly url: string;
  readonly token: TokenSource | null;
  readonly api: string;
  list(): TaskListState;
  href(task: string | null): string;
}

export class TaskPanel {
  readonly #around: Surroundings;
  readonly #bar = byId<RelayTaskElement>("bar");
  readonly #cancellation: Cancellation;
  #task: string | null = null;
  #log = new Log();
  #stop: () => void = () => {};
  #isScheduled = false;
  #shown: { [name: string]: string } = {};

  constructor(around: Surroundings) {
    this.#around = around;
    this.#cancellation = new Cancellation(around.relay);
    this.#bar.client = around.relay;
    this.#bar.addEventListener("relay-update", () => this.#drawSoon());
    this.#bar.addEventListener("relay-connection", () => this.#drawSoon());
    byId("copy").addEventListener("click", () => void this.#copy());
  }

  /** Show a task, or none. */
  show(task: string | null): void {
    if (task === this.#task) return;
    this.#stop();
    this.#task = task;
    this.#log = new Log();
    this.#shown = {};
    this.#cancellation.begin(task);
    byId("panel").hidden = task === null;
    document.body.classList.toggle("has-task", task !== null);
    setText(byId("copied"), "");
    if (task === null) {
      this.#bar.task = null;
      return;
    }
    this.#bar.task = task;
    this.#stop = this.#followLog(task);
    this.#drawSoon();
  }

  /** The list has changed: the task's parent and children are in it. */
  listChanged(): void {
    if (this.#task !== null) this.#drawSoon();
  }

  /** Follow the task from its first update that is stored, on a connection that begins there. */
  #followLog(task: string): () => void {
    const log = this.#log;
    let client: RelayClient | null = null;
    let isOver = false;
    const begin = async (): Promise<void> => {
      const response = await this.#around.relay.fetch(`tasks/${encodeURIComponent(task)}`, { signal: AbortSignal.timeout(15_000) });
      const answer = response.ok ? await response.json() : null;
      if (isOver) return;
      const { url, token, api } = this.#around;
      const channel = `task:${task}`;
      const top: number = answer?.position?.offset ?? 0;
      const positions = answer === null ? {} : { [channel]: { epoch: answer.position.epoch, offset: 0 } };
      client = new RelayClient(url, { token, api, positions, shared: false, onError: () => {} });
      client.task(task).onUpdate((update) => {
        const isPast = update.position !== null && update.position.offset <= top;
        log.take(update, isPast ? null : Date.now());
        this.#drawSoon();
      });
    };
    begin().catch(() => {}); // the bar says that the relay cannot be reached
    return () => {
      isOver = true;
      client?.close();
    };
  }

  #drawSoon(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    requestAnimationFrame(() => {
      this.#isScheduled = false;
      if (this.#task !== null && this.#bar.state !== null) this.#draw(this.#task, this.#bar.state);
    });
  }

  #draw(id: string, state: TaskState): void {
    const { tasks } = this.#around.list();
    const listed = tasks.find((task) => task.id === id);
    const run = listed?.run === undefined ? {} : { run: listed.run };
    const task: ListedTask = { id, data: state.data, active: 0, owner: listed?.owner ?? [], parentId: listed?.parentId ?? null, ...run };
    const link = (other: string, title?: string): HTMLElement => {
      const known = title ?? text(tasks.find((each) => each.id === other)?.data.title);
      return h("a", { href: this.#around.href(other), "data-task": other, dir: "auto" }, cut(known || other, 120));
    };
    this.#cancellation.show(state);
    setText(byId("panel-title"), cut(text(state.data.title) || id, 120));
    const data = JSON.stringify(state.data);
    this.#section("facts", data + JSON.stringify([task.owner, task.parentId, task.run]), () => facts(task, link));
    this.#section("results", data, () => results(state.data));
    const family = children(id, tasks, link);
    this.#section("children", family.map((node) => node.textContent).join("\n"), () => family);
    const log = this.#log;
    const { stages } = log;
    this.#section("stages", `${stages.length} ${stages.at(-1)?.name} ${state.status}`, () =>
      stages.map(({ name, at, percent }, index) => {
        const isCurrent = index === stages.length - 1 && state.status === "in_progress";
        const when = at === null ? (percent === null ? "" : `at ${Math.floor(percent)} %`) : clock.format(at);
        return h("li", isCurrent ? { "aria-current": "step" } : {}, h("span", { dir: "auto" }, cut(name.replaceAll("_", " "), 80)), h("span", { class: "when" }, when));
      }),
    );
    const { lines } = log;
    this.#section("messages", `${lines.length} ${lines.at(-1)?.text}`, () =>
      lines
        .slice(-200)
        .reverse()
        .map(({ at, text, percent }) => {
          const when = at !== null ? clock.format(at) : percent === null ? "" : `${Math.floor(percent)} %`;
          return h("li", {}, h("span", { class: "when" }, when), h("span", { class: "message", dir: "auto" }, cut(text, 2000)));
        }),
    );
    byId("truncated").hidden = !log.isTruncated;
    const error = text(state.data.error);
    const trace = text(state.data["traceback"]);
    byId("error-section").hidden = error === "" && trace === "";
    setText(byId("error"), [error, trace].filter(Boolean).join("\n\n"));
    if (byId<HTMLDetailsElement>("raw").open) setText(byId("json"), JSON.stringify(state.data, null, 2));
    else byId("raw").ontoggle = () => this.#drawSoon();
  }

  /** Fill a section again where its contents have changed; hide it where there are none. */
  #section(name: string, key: string, make: () => HTMLElement[]): void {
    if (this.#shown[name] === key) return;
    this.#shown[name] = key;
    const nodes = make();
    byId(name).replaceChildren(...nodes);
    const section = document.getElementById(`${name}-section`);
    if (section !== null) section.hidden = nodes.length === 0;
  }

  async #copy(): Promise<void> {
    const url = new URL(this.#around.href(this.#task), location.href).href;
    try {
      await navigator.clipboard.writeText(url);
      setText(byId("copied"), "The link was copied.");
    } catch {
      setText(byId("copied"), url); // without a secure context there is no clipboard
    }
  }
}
