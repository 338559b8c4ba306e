// Composables for Vue 3. They follow while the component, or another effect scope, lives; on the server they follow nothing.

import { type MaybeRefOrGetter, onScopeDispose, type ShallowRef, shallowRef, toValue, watch } from "vue";

import type { RelayClient } from "./client.js";
import type { ConnectionState, FamilyState, TaskFields, TaskFilter, TaskListState, TaskState } from "./core/types.js";
import { unknownTask } from "./followed.js";
import { unknownFamily } from "./followed_family.js";
import type { TaskListOptions } from "./task_list.js";

type Id = string | number | null | undefined;

const isBrowser = (): boolean => globalThis.document !== undefined;

/** A ref that follows what `follow` observes, and follows again when `key` changes. */
function following<T, K>(key: () => K, first: T, follow: (key: K, set: (value: T) => void) => () => void): Readonly<ShallowRef<T>> {
  const value = shallowRef(first) as ShallowRef<T>;
  if (!isBrowser()) return value;
  let stop = (): void => {};
  watch(
    key,
    (now) => {
      stop();
      stop = follow(now, (next) => (value.value = next));
    },
    { immediate: true },
  );
  onScopeDispose(() => stop());
  return value;
}

/** A ref to the state of what a client has under an id. */
function followingId<S>(taskId: MaybeRefOrGetter<Id>, unknown: S, handle: (id: string | number) => { subscribe(set: (state: S) => void): () => void }) {
  return following<S, Id>(() => toValue(taskId), unknown, (id, set) => {
    if (id !== null && id !== undefined && id !== "") return handle(id).subscribe(set);
    set(unknown);
    return () => {};
  });
}

/** What is known of a task. The id may be a ref or a getter. */
export const useTask = <F extends object = TaskFields>(relay: RelayClient<any>, taskId: MaybeRefOrGetter<Id>): Readonly<ShallowRef<TaskState<F>>> =>
  followingId<TaskState<F>>(taskId, unknownTask("idle"), (id) => relay.task<F>(id));

/** What is known of a task and its children. The id may be a ref or a getter. */
export const useFamily = <F extends object = TaskFields>(relay: RelayClient<any>, taskId: MaybeRefOrGetter<Id>): Readonly<ShallowRef<FamilyState<F>>> =>
  followingId<FamilyState<F>>(taskId, unknownFamily("idle"), (id) => relay.family<F>(id));

/** A list of tasks. The filter may be a ref or a getter, and is compared by its values. */
export function useTasks<F extends object = TaskFields>(
  relay: RelayClient<any>,
  filter: MaybeRefOrGetter<TaskFilter> = {},
  options: TaskListOptions = {},
): Readonly<ShallowRef<TaskListState<F>>> {
  const make = (key: string): ReturnType<RelayClient<any>["tasks"]> => relay.tasks(JSON.parse(key), options);
  const first = relay.tasks<F>(toValue(filter), options).state;
  return following<TaskListState<F>, string>(
    () => JSON.stringify(toValue(filter)),
    first,
    (key, set) => make(key).subscribe((state) => set(state as TaskListState<any>)),
  );
}

/** The connection of a client. */
export function useConnection(relay: RelayClient<any>): Readonly<ShallowRef<ConnectionState>> {
  return following<ConnectionState, null>(() => null, relay.connection.state, (_, set) => relay.connection.subscribe(set));
}
