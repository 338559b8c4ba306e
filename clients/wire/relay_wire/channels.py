"""Channel names, update types, and the Redis channels that existing services publish to."""

#: The channel of updates for every client.
GENERAL = "general"

#: The channel of a task is this prefix followed by the task's id.
TASK_PREFIX = "task:"

#: The channel of a task together with its children is this prefix followed by the task's id.
FAMILY_PREFIX = "family:"

#: Types of updates, as clients see them. Messages on channels that the operator names are sent as they are.
TASK_UPDATE = "task_update"
GENERAL_UPDATE = "general_update"
MESSAGE = "message"

#: Within Relay, the type of a task update with operations among its fields; clients see ``task_update``.
TASK_DELTA = "task_delta"

#: Within Relay, the types of what a family's channel brings: an update of one of its tasks, and the states of all of them.
FAMILY_UPDATE, FAMILY_STATES = "family_update", "family_states"

#: The Redis channels of plain ``PUBLISH``, see docs/protocol.md.
TASK_UPDATES = "task_updates"
GENERAL_UPDATES = "general_updates"

#: Longest task id and longest channel name, in characters: they become dictionary keys and Redis keys.
MAX_NAME_LENGTH = 255

#: Most fields of an update, and of the state of a task.
MAX_FIELDS = 256

#: What an update may do with a field instead of replacing it: the names in an object with one member, see docs/protocol.md.
APPEND, SET = "$append", "$set"

#: Most children that a task counts.
MAX_CHILDREN = 20_000
