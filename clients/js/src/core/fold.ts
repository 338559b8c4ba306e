// The state of a task: its partial updates folded into one, later fields over earlier ones.

import type { Fields } from "./types.js";

/** Not by assignment, which a field named __proto__ would abuse. */
export function put(fields: { [name: string]: unknown }, name: string, value: unknown): void {
  if (name === "__proto__") Object.defineProperty(fields, name, { value, enumerable: true, configurable: true, writable: true });
  else fields[name] = value;
}

/** What a field has after `{"$append": more}`. Throws TypeError if it is of another type than what is appended. */
function appended(value: unknown, more: unknown): unknown {
  if (value === undefined || value === null) return more;
  if (typeof value === "string" && typeof more === "string") return value + more;
  if (typeof value === "number" && typeof more === "number") return value + more;
  if (Array.isArray(value) && Array.isArray(more)) return [...value, ...more];
  throw new TypeError("what is appended to a field has another type than the field");
}

/** The operation that a field's value is: an object with exactly one member, "$append" or "$set". */
export function operationOf(value: unknown): [string, unknown] | null {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return null;
  const [first, second] = Object.entries(value);
  return first !== undefined && second === undefined && (first[0] === "$append" || first[0] === "$set") ? first : null;
}

/**
 * The data of an update without operations: each field that it changes, as it is then. Throws TypeError if the update appends to a
 * value of another type, so it does not belong to this state.
 */
export function wholeValues(state: Fields, data: Fields): Fields {
  let whole: { [name: string]: unknown } | null = null;
  for (const [name, value] of Object.entries(data)) {
    const operation = operationOf(value);
    if (operation === null) continue;
    whole ??= { ...data };
    const former = Object.hasOwn(state, name) ? state[name] : undefined;
    put(whole, name, operation[0] === "$set" ? operation[1] : appended(former, operation[1]));
  }
  return whole ?? data;
}

/** The state after an update without operations. The former one is left as it was. */
export function fold(state: Fields, data: Fields): Fields {
  const folded: { [name: string]: unknown } = { ...state };
  for (const [name, value] of Object.entries(data)) put(folded, name, value);
  return folded;
}
