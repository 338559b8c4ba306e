// Importing this module defines <relay-task> and <relay-tasks>.

import { RelayTaskElement } from "./relay_task.js";
import { RelayTasksElement } from "./relay_tasks.js";

export * from "../index.js";
export { RelayTaskElement } from "./relay_task.js";
export { RelayTasksElement } from "./relay_tasks.js";
export { matches } from "../task_list.js";
export { connectionText, duration, Pace, percentOf, statusOf, type TaskView, text, timeOf, type Tone, viewOf } from "./view.js";

if (globalThis.customElements !== undefined) {
  // Two versions on one page: the first is used.
  if (!customElements.get("relay-task")) customElements.define("relay-task", RelayTaskElement);
  if (!customElements.get("relay-tasks")) customElements.define("relay-tasks", RelayTasksElement);
}

declare global {
  interface HTMLElementTagNameMap {
    "relay-task": RelayTaskElement;
    "relay-tasks": RelayTasksElement;
  }
}
