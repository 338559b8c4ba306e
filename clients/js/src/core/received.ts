// What arrives from a relay, before it reaches those who follow.

import type { Fields, Update } from "./types.js";

/**
 * An update. `state` is that of the channel; of a family, the states of all its tasks by their ids.
 *
 * "task_states": the states of a family's tasks at one moment, in `data`. What was known of them before no longer counts.
 */
export interface Received extends Omit<Update<Fields>, "type"> {
  readonly type: Update["type"] | "task_states";
  /** Of "task_states": the family has more tasks than the relay sends states of. */
  readonly isTruncated?: boolean;
}

/** The update that brings a whole state: of a task, or of a family. */
export const stateUpdate = (channel: string, taskId: string | null, state: Fields, position: Received["position"], isTruncated: boolean): Received => ({
  type: taskId === null ? "task_states" : "task_update",
  channel,
  taskId,
  data: state,
  state,
  position,
  isState: true,
  ...(taskId === null ? { isTruncated } : {}),
});
