// The state of a family: the states of a task and of its children, by their ids.

import { ProtocolError } from "./errors.js";
import { fold, operationOf, put } from "./fold.js";
import type { Fields } from "./types.js";

/** It is changed in place: a family may have thousands of tasks. What is known of one task is never changed, but replaced. */
export type FamilyStates = { [taskId: string]: Fields };

const NOTHING: Fields = {};

export const memberState = (states: { readonly [taskId: string]: Fields }, taskId: string): Fields =>
  Object.hasOwn(states, taskId) ? states[taskId]! : NOTHING;

/** The states in a message of the relay. Throws ProtocolError if there are none in it. */
export function statesIn(tasks: unknown): FamilyStates {
  if (!Array.isArray(tasks)) throw new ProtocolError("states without tasks");
  const states: FamilyStates = {};
  for (const { task_id: taskId, data } of tasks) {
    if (typeof data !== "object" || data === null) throw new ProtocolError("a state without data");
    put(states, String(taskId), fold(NOTHING, data));
  }
  return states;
}

/** Take an update of one task, without operations. */
export function foldMember(states: FamilyStates, taskId: string, data: Fields): void {
  put(states, taskId, fold(memberState(states, taskId), data));
}

/**
 * The data of an update of a task whose state the relay has not sent, as there are too many: without what is appended to fields of
 * which the beginning is not known.
 */
export const withoutUnknown = (state: Fields, data: Fields): Fields =>
  Object.fromEntries(Object.entries(data).filter(([name, value]) => Object.hasOwn(state, name) || operationOf(value)?.[0] !== "$append"));
