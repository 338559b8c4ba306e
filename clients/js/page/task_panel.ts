// One task, in full.

import { type ListedTask, type RelayClient, type RelayTaskElement, type TaskListState, type TaskState, text } from "../src/element/index.js";
import { byId, cut, h, setText } from "./dom.js";
import { children, facts, results } from "./facts.js";
import { followLog } from "./history.js";
import { Log } from "./log.js";
import { copy, linkTo } from "./share.js";
import { CANCEL, RETRY, TaskAction } from "./task_action.js";

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

interface Surroundings {
  readonly relay: RelayClient;
  list(): TaskListState;
  href(task: string | null): string;
}

export class TaskPanel {
  readonly #around: Surroundings;
  readonly #bar = byId<RelayTaskElement>("bar");
  readonly #actions: readonly TaskAction[];
  #task: string | null = null;
  #log = new Log();
  #stop: () => void = () => {};
  #isScheduled = false;
  #shown: { [name: string]: string } = {};

  constructor(around: Surroundings) {
    this.#around = around;
    const say = (words: string): void => setText(byId("outcome"), words);
    this.#actions = [CANCEL, RETRY].map((kind) => new TaskAction(around.relay, kind, say));
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
    for (const action of this.#actions) action.begin(task);
    setText(byId("outcome"), "");
    byId("panel").hidden = task === null;
    document.body.classList.toggle("has-task", task !== null);
    setText(byId("copied"), "");
    if (task === null) {
      this.#bar.task = null;
      return;
    }
    this.#bar.task = task;
    this.#stop = followLog(this.#around.relay, task, this.#log, () => this.#drawSoon());
    this.#drawSoon();
  }

  /** The list has changed: the task's parent and children are in it. */
  listChanged(): void {
    if (this.#task !== null) this.#drawSoon();
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
    for (const action of this.#actions) action.show(state);
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
    const task = this.#task!;
    const said = byId("copied");
    setText(said, "");
    const link = linkTo(this.#around.relay, task, this.#around.href(task));
    const isCopied = copy(link).then(() => true, () => false);
    const { url, note } = await link;
    const shown = (await isCopied) ? note : url; // without a secure context there is no clipboard
    if (this.#task === task) setText(said, shown);
  }
}
