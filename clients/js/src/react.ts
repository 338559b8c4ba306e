// Hooks for React 18 and newer. On the server, and while a page is hydrated, nothing is known yet.

import { useCallback, useMemo, useSyncExternalStore } from "react";

import type { RelayClient } from "./client.js";
import type { ConnectionState, TaskFields, TaskFilter, TaskListState, TaskState } from "./core/types.js";
import { unknownTask } from "./followed.js";
import type { TaskListOptions } from "./task_list.js";

const UNKNOWN: TaskState<any> = unknownTask("idle");

/** What is known of a task, which is followed while the component is mounted. Without an id nothing is followed. */
export function useTask<F extends object = TaskFields>(relay: RelayClient<any>, taskId: string | number | null | undefined): TaskState<F> {
  const isNamed = taskId !== null && taskId !== undefined && taskId !== "";
  const subscribe = useCallback(
    (changed: () => void) => (isNamed ? relay.task(taskId).subscribe(changed) : () => {}),
    [relay, taskId, isNamed],
  );
  const snapshot = (): TaskState<F> => (isNamed ? relay.task<F>(taskId).state : UNKNOWN);
  return useSyncExternalStore(subscribe, snapshot, () => UNKNOWN);
}

/** A list of tasks, which is kept up to date while the component is mounted. The filter is compared by its values. */
export function useTasks<F extends object = TaskFields>(
  relay: RelayClient<any>,
  filter: TaskFilter = {},
  options: TaskListOptions = {},
): TaskListState<F> {
  const key = JSON.stringify([filter, options]);
  const list = useMemo(() => relay.tasks<F>(filter, options), [relay, key]);
  const first = useMemo(() => list.state, [list]);
  const subscribe = useCallback((changed: () => void) => list.subscribe(changed), [list]);
  return useSyncExternalStore(
    subscribe,
    () => list.state,
    () => first,
  );
}

/** The connection of a client. */
export function useConnection(relay: RelayClient<any>): ConnectionState {
  const subscribe = useCallback((changed: () => void) => relay.connection.subscribe(changed), [relay]);
  const snapshot = (): ConnectionState => relay.connection.state;
  return useSyncExternalStore(subscribe, snapshot, snapshot);
}
