// The public names of @trio-relay/client.

export { TextChunk } from "./text_stream.js";
export { RelayClient, type RelayClientOptions } from "./client.js";
export { RelayError } from "./core/errors.js";
export { retryAfter } from "./core/retry_after.js";
export type {
  ConnectionState,
  FamilyState,
  Fields,
  FollowStatus,
  ListedTask,
  Position,
  TaskFields,
  TaskFilter,
  TaskListState,
  TaskState,
  TaskStatus,
  TokenSource,
  Update,
} from "./core/types.js";
export { ChannelHandle, FamilyHandle, TaskHandle } from "./task.js";
export { TaskList, type TaskListOptions } from "./task_list.js";
