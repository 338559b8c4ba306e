// The state of a task: its partial updates folded into one, later fields over earlier ones.

import type { Fields } from "./types.js";

/** Whether a value is `{"$append": delta}`: it extends the former value, and does not replace it. */
const isAppended = (value: unknown): value is { $append: unknown } =>
  typeof value === "object" && value !== null && "$append" in value && Object.keys(value).length === 1;

function appended(former: unknown, delta: unknown): unknown {
  if (typeof former === "string" && typeof delta === "string") return former + delta;
  if (typeof former === "number" && typeof delta === "number") return former + delta;
  if (Array.isArray(former)) return Array.isArray(delta) ? [...former, ...delta] : [...former, delta];
  return delta;
}

/** The state after an update. The former one is left as it was. */
export function fold(state: Fields, data: Fields): Fields {
  const folded: { [name: string]: unknown } = { ...state };
  for (const [name, value] of Object.entries(data)) {
    // Not by assignment, which a field named __proto__ would abuse.
    const next = isAppended(value) ? appended(Object.hasOwn(state, name) ? state[name] : undefined, value.$append) : value;
    if (name === "__proto__") Object.defineProperty(folded, name, { value: next, enumerable: true, configurable: true, writable: true });
    else folded[name] = next;
  }
  return folded;
}
