// The page at `/`: all tasks of a relay, live. It uses what the package gives to everyone.

import { Pace, percentOf, RelayClient, type ListedTask } from "../src/element/index.js";
import { showConnection } from "./connection_view.js";
import { byId, h, setText } from "./dom.js";
import { counts, filterNamed, FILTERS, selected } from "./filters.js";
import { Order } from "./order.js";
import { makeRow, showRow, type TaskRow } from "./row.js";
import { TaskPanel } from "./task_panel.js";
import { isShared, storedToken, storeToken, takeToken } from "./token.js";
import { address, read, type UrlState } from "./url_state.js";
import { VirtualList } from "./virtual_list.js";

/** Most tasks that are loaded. */
const LIMIT = 10_000;

/** Milliseconds for which rows must be on the screen before their tasks are followed live. */
const WATCH_MS = 120;

takeToken();
/** Who came by a share link sees one task, and no list. */
const isOneTask = isShared();
const url = new URL("./", location.href);
url.search = url.hash = "";
const api = document.querySelector<HTMLMetaElement>('meta[name="relay-api"]')!.content;
const token = storedToken();
// Tabs share a connection with those of the same viewer only.
const relay = new RelayClient(new URL("ws/tasks", url), {
  api,
  token,
  shared: token === null ? "page" : false,
  // People who look at a page want to know soon that nothing arrives any more.
  heartbeat: 10_000,
  heartbeatTimeout: 5_000,
  onError: () => {},
});
const list = relay.tasks({ limit: LIMIT }, { live: 100 });

let state: UrlState = read();
let byTask = new Map<string, ListedTask>();
const order = new Order();
const paces = new Map<string, Pace>();
const scroller = byId("scroller");
let isPointed = false;
let numbers: readonly number[] = FILTERS.map(() => 0);
let watching: ReturnType<typeof setTimeout> | undefined;

const panel = new TaskPanel({ relay, list: () => list.state, href: (task) => address({ ...state, task }) });

const rows = new VirtualList<TaskRow>(
  scroller,
  byId("rows"),
  {
    make: makeRow,
    show: (row, id) => {
      const task = byTask.get(id);
      if (task === undefined) return;
      // Without a connection nobody knows how long the rest takes.
      const pace = relay.connection.state.status === "live" ? paces.get(id) : undefined;
      showRow(row, task, address({ ...state, task: id }), id === state.task, pace, Date.now());
    },
  },
  (ids) => {
    watchSoon(ids);
    for (const id of paces.keys()) if (!ids.includes(id)) paces.delete(id);
    for (const id of ids) if (!paces.has(id)) paces.set(id, new Pace());
  },
);

/** Follow what is on the screen, once it stays there: not what is scrolled past. */
function watchSoon(ids: readonly string[]): void {
  clearTimeout(watching);
  watching = setTimeout(() => list.watch(ids), WATCH_MS);
}

const chips = FILTERS.map(({ name, label, tone }) => {
  const count = h("span", { class: "count" });
  const node = h("a", { class: "chip", "data-tone": tone }, h("span", {}, label), count);
  byId("filters").append(h("li", {}, node));
  return { name, node, count };
});

function draw(): void {
  const { tasks, isLoading, isTruncated, error } = list.state;
  const hasChanged = order.update(tasks);
  byTask = new Map();
  for (const task of tasks) byTask.set(task.id, task);
  for (const [id, pace] of paces) {
    const task = byTask.get(id);
    if (task?.data.status === "in_progress") pace.note(percentOf(task.data), Date.now());
  }
  if (hasChanged) numbers = counts(tasks, order);
  chips.forEach(({ name, node, count }, index) => {
    setText(count, numbers[index]!.toLocaleString());
    node.toggleAttribute("data-empty", numbers[index] === 0);
    if (name === filterNamed(state.show).name) node.setAttribute("aria-current", "page");
    else node.removeAttribute("aria-current");
    const href = address({ ...state, show: name });
    if (node.getAttribute("href") !== href) node.setAttribute("href", href);
  });
  const { show, search } = state;
  // Any field may be what is searched for.
  const mayDiffer = hasChanged || search !== "";
  const { ids, waiting } = order.arrange(() => selected(tasks, order, show, search), `${show} ${search}`, mayDiffer, isPointed || scroller.scrollTop > 0);
  rows.show(ids);
  const more = byId<HTMLButtonElement>("more");
  more.hidden = waiting === 0;
  setText(more, waiting === 1 ? "1 new task" : `${waiting.toLocaleString()} new tasks`);
  const isAsked = error?.code === 401 || error?.code === "unauthenticated" || relay.connection.state.status === "closed";
  byId("empty").hidden = isLoading || tasks.length > 0 || isAsked;
  byId("loading").hidden = !isLoading || isAsked;
  setText(byId("loading"), error === null ? "Reading the tasks" : "The tasks could not be read yet");
  byId("nothing").hidden = tasks.length === 0 || ids.length > 0 || waiting > 0;
  byId("truncated-list").hidden = !isTruncated;
  byId("sign-in").hidden = !isAsked;
  document.title = title(numbers);
  panel.listChanged();
}

/** What went wrong is seen in a background tab, too. */
function title(numbers: readonly number[]): string {
  const [, failed, stalled] = numbers as [number, number, number];
  const bad = [failed > 0 ? `${failed} failed` : "", stalled > 0 ? `${stalled} stalled` : ""].filter(Boolean).join(", ");
  return bad === "" ? "Relay" : `${bad} · Relay`;
}

function go(next: UrlState, how: "push" | "replace"): void {
  const isOther = next.show !== state.show || next.search !== state.search;
  if (address(next) !== address(state)) history[how === "push" ? "pushState" : "replaceState"](null, "", address(next));
  const former = state.task;
  state = next;
  if (isOther) {
    scroller.scrollTop = 0;
    isPointed = false;
  }
  panel.show(state.task);
  draw();
  if (state.task !== former) focusAfter(former);
}

/** The keyboard goes where the eyes go: into the task, and back to its row. */
function focusAfter(former: string | null): void {
  if (state.task !== null) byId("panel-title").focus({ preventScroll: true });
  else if (former !== null) document.querySelector<HTMLElement>(`.row-link[href="${CSS.escape(address({ ...state, task: former }))}"]`)?.focus();
}

/** Links within the page change what is shown; with a modifier key they open a tab, as all links do. */
document.addEventListener("click", (event) => {
  const link = (event.target as Element).closest("a");
  if (link === null || link.origin !== location.origin || link.target !== "" || event.button !== 0) return;
  if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey || link.hash !== "") return;
  event.preventDefault();
  go(read(link.search), "push");
});
document.addEventListener("keydown", (event) => {
  const isTyping = event.target instanceof HTMLInputElement;
  if (isOneTask) return;
  if (event.key === "Escape" && state.task !== null && !isTyping && document.querySelector("dialog[open]") === null) go({ ...state, task: null }, "push");
  if (event.key === "/" && !isTyping) {
    event.preventDefault();
    byId("search").focus();
  }
});
addEventListener("popstate", () => go(read(), "replace"));
// A link with a token was opened in this tab.
addEventListener("hashchange", () => takeToken() && location.reload());

const search = byId<HTMLInputElement>("search");
search.value = state.search;
search.addEventListener("input", () => go({ ...state, search: search.value.trim() }, "replace"));
byId("close").addEventListener("click", () => go({ ...state, task: null }, "push"));
byId("more").addEventListener("click", () => {
  scroller.scrollTop = 0;
  isPointed = false;
  draw();
});
// The button for new tasks is a part of the list: it may appear under the pointer.
scroller.addEventListener("pointerenter", (event) => (isPointed = event.pointerType === "mouse"));
scroller.addEventListener("pointerleave", () => {
  isPointed = false;
  draw();
});
byId("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  storeToken(byId<HTMLInputElement>("token").value.trim());
  location.reload();
});

showConnection(relay, list, () => state.task !== null || byTask.size > 0, byId("connection"), byId("banner"));
document.body.classList.toggle("is-one-task", isOneTask);
panel.show(state.task);
if (isOneTask) {
  relay.connection.subscribe(({ status }) => (byId("link-ended").hidden = status !== "closed"));
} else {
  list.subscribe(draw);
}
// Ages and remaining times go on where no update comes.
setInterval(() => rows.refresh(), 1000);
