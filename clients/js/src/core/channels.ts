// Names of channels within this package: "task:<id>", "family:<id>", "general", "channel:<name>".

export const GENERAL = "general";
export const TASK_PREFIX = "task:";
export const FAMILY_PREFIX = "family:";
export const EXTRA_PREFIX = "channel:";

export const taskIdOf = (name: string): string | null => (name.startsWith(TASK_PREFIX) ? name.slice(TASK_PREFIX.length) : null);

/** Whether a channel has the updates of a task together with its children. */
export const isFamily = (name: string): boolean => name.startsWith(FAMILY_PREFIX);

/** The task with whose children a channel of a family is. */
export const parentOf = (name: string): string => name.slice(FAMILY_PREFIX.length);

/** The fields that name a channel in a message to the relay. */
export function requestFields(name: string): { task_id: string; children?: true } | { channel: string } {
  if (isFamily(name)) return { task_id: parentOf(name), children: true };
  if (name.startsWith(TASK_PREFIX)) return { task_id: name.slice(TASK_PREFIX.length) };
  return { channel: name.startsWith(EXTRA_PREFIX) ? name.slice(EXTRA_PREFIX.length) : name };
}

/** The channel that a message of the relay names; undefined if it names none. */
export function channelNamed(message: { task_id?: unknown; channel?: unknown; family?: unknown; children?: unknown }): string | undefined {
  if (message.family !== undefined) return FAMILY_PREFIX + String(message.family);
  if (message.children === true) return FAMILY_PREFIX + String(message.task_id);
  if (message.task_id !== undefined) return TASK_PREFIX + String(message.task_id);
  if (message.channel === undefined) return undefined;
  return message.channel === GENERAL ? GENERAL : EXTRA_PREFIX + String(message.channel);
}

export const typeOf = (name: string): "task_update" | "general_update" | "channel_update" =>
  name === GENERAL ? "general_update" : name.startsWith(EXTRA_PREFIX) ? "channel_update" : "task_update";

/** The id of a task as text. Throws RangeError if it cannot be one. */
export function checkedTaskId(id: string | number): string {
  const text = String(id);
  if (text.length < 1 || text.length > 255) throw new RangeError("a task id has 1 to 255 characters");
  return text;
}
