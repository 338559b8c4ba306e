// The state of a task: its partial updates folded into one, later fields over earlier ones.

import type { Fields } from "./types.js";

/** The state after an update. The former one is left as it was. What was appended to a field, the relay sends as the whole value. */
export function fold(state: Fields, data: Fields): Fields {
  const folded: { [name: string]: unknown } = { ...state };
  for (const [name, value] of Object.entries(data)) {
    // Not by assignment, which a field named __proto__ would abuse.
    if (name === "__proto__") Object.defineProperty(folded, name, { value, enumerable: true, configurable: true, writable: true });
    else folded[name] = value;
  }
  return folded;
}
