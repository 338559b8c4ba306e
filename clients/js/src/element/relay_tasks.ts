// <relay-tasks owner="user:7">: the live bars of several tasks.

import type { RelayClient } from "../client.js";
import type { TaskFilter, TaskListState, TaskStatus } from "../core/types.js";
import { ConnectedElement } from "./connected_element.js";
import type { RelayTaskElement } from "./relay_task.js";
import { addStyles } from "./styles.js";

/** Tasks that are shown, unless `limit` says otherwise. */
const LIMIT = 20;

/**
 * Attributes: `owner`, `status` (several separated by commas), `kind`, `parent`, `text`, `limit`, `src`, `token`, `api`.
 * Parts: base, list, item, note; those of the tasks are exported with the same names.
 * Events: relay-list (detail: the list), and those of the tasks.
 */
export class RelayTasksElement extends ConnectedElement {
  static observedAttributes = ["owner", "status", "kind", "parent", "text", "limit", "src", "token", "api"];

  readonly #list: HTMLUListElement;
  readonly #note: HTMLParagraphElement;
  readonly #items = new Map<string, HTMLLIElement>();

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    addStyles(root);
    this.#list = document.createElement("ul");
    this.#list.className = "list";
    this.#list.part.add("list");
    // With `list-style: none` some screen readers see no list otherwise.
    this.#list.setAttribute("role", "list");
    this.#note = document.createElement("p");
    this.#note.className = "note";
    this.#note.part.add("note");
    this.#note.setAttribute("role", "status");
    root.append(this.#note, this.#list);
  }

  protected follow(client: RelayClient<any>): () => void {
    const filter: { -readonly [name in keyof TaskFilter]: TaskFilter[name] } = {};
    const given = (name: string): string | undefined => this.getAttribute(name) || undefined;
    const limit = Math.max(1, Math.min(200, Number(given("limit") ?? LIMIT) || LIMIT));
    const status = given("status");
    if (status !== undefined) filter.status = status.split(",").map((each) => each.trim()) as TaskStatus[];
    for (const name of ["owner", "kind", "text"] as const) if (given(name) !== undefined) filter[name] = given(name)!;
    if (given("parent") !== undefined) filter.parentId = given("parent")!;
    return client.tasks({ ...filter, limit }, { live: limit }).subscribe((state) => this.#show(client, state));
  }

  #show(client: RelayClient<any>, state: TaskListState): void {
    const wanted = new Set(state.tasks.map(({ id }) => id));
    for (const [id, item] of this.#items) {
      if (wanted.has(id)) continue;
      item.remove();
      this.#items.delete(id);
    }
    let next: Element | null = this.#list.firstElementChild;
    for (const { id } of state.tasks) {
      let item = this.#items.get(id);
      if (item === undefined) {
        item = document.createElement("li");
        item.part.add("item");
        const task = document.createElement("relay-task") as RelayTaskElement;
        task.task = id;
        task.client = client;
        task.setAttribute("exportparts", "base, header, title, status, bar, fill, footer, detail, eta, connection");
        item.append(task);
        this.#items.set(id, item);
        this.#list.insertBefore(item, next);
      }
      next = item.nextElementSibling;
    }
    const note = state.error?.message ?? (state.isLoading ? "Reading the list" : state.tasks.length === 0 ? "No tasks" : "");
    if (this.#note.textContent !== note) this.#note.textContent = note;
    this.emit("relay-list", state);
  }
}
