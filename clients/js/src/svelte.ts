// Stores for Svelte 3 and newer: `const task = taskStore(relay, "demo")`, and `$task` in the component. They follow while observed.

import type { RelayClient } from "./client.js";
import type { ConnectionState, FamilyState, TaskFields, TaskFilter, TaskListState, TaskState } from "./core/types.js";
import type { TaskListOptions } from "./task_list.js";

/** As `Readable` of svelte/store. */
export interface Readable<T> {
  subscribe(run: (value: T) => void): () => void;
}

/** What is known of a task. */
export const taskStore = <F extends object = TaskFields>(relay: RelayClient<any>, taskId: string | number): Readable<TaskState<F>> => relay.task<F>(taskId);

/** What is known of a task and its children. */
export const familyStore = <F extends object = TaskFields>(relay: RelayClient<any>, taskId: string | number): Readable<FamilyState<F>> =>
  relay.family<F>(taskId);

/** A list of tasks. */
export const tasksStore = <F extends object = TaskFields>(
  relay: RelayClient<any>,
  filter: TaskFilter = {},
  options: TaskListOptions = {},
): Readable<TaskListState<F>> => relay.tasks<F>(filter, options);

/** The connection of a client. */
export const connectionStore = (relay: RelayClient<any>): Readable<ConnectionState> => ({
  subscribe: (run) => relay.connection.subscribe(run),
});
