// Hooks for React 18 and newer. On the server, and while a page is hydrated, nothing is known yet.

import { useCallback, useMemo, useSyncExternalStore } from "react";

import type { RelayClient } from "./client.js";
import type { ConnectionState, FamilyState, TaskFields, TaskFilter, TaskListState, TaskState } from "./core/types.js";
import { unknownTask } from "./followed.js";
import { unknownFamily } from "./followed_family.js";
import type { TaskListOptions } from "./task_list.js";

const UNKNOWN: TaskState<any> = unknownTask("idle");
const UNKNOWN_FAMILY: FamilyState<any> = unknownFamily("idle");

type Id = string | number | null | undefined;

function useFollowed<S>(relay: RelayClient<any>, kind: "task" | "family", taskId: Id, unknown: S): S {
  const isNamed = taskId !== null && taskId !== undefined && taskId !== "";
  const subscribe = useCallback(
    (changed: () => void) => (isNamed ? relay[kind](taskId).subscribe(changed) : () => {}),
    [relay, kind, taskId, isNamed],
  );
  const snapshot = (): S => (isNamed ? (relay[kind](taskId).state as S) : unknown);
  return useSyncExternalStore(subscribe, snapshot, () => unknown);
}

/** What is known of a task, which is followed while the component is mounted. Without an id nothing is followed. */
export const useTask = <F extends object = TaskFields>(relay: RelayClient<any>, taskId: Id): TaskState<F> => useFollowed(relay, "task", taskId, UNKNOWN);

/** What is known of a task and its children, which are followed while the component is mounted. Without an id nothing is followed. */
export const useFamily = <F extends object = TaskFields>(relay: RelayClient<any>, taskId: Id): FamilyState<F> =>
  useFollowed(relay, "family", taskId, UNKNOWN_FAMILY);

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
