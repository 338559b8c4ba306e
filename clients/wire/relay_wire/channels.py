"""Channel names, update types, and the Redis channels that existing services publish to."""

#: The channel for updates that concern every client.
GENERAL = "general"

#: The channel of a task is this prefix and the task's id.
TASK_PREFIX = "task:"

#: Update types, as clients see them. Messages on operator-named channels pass through as they are.
TASK_UPDATE = "task_update"
GENERAL_UPDATE = "general_update"
MESSAGE = "message"

#: The Redis channels of plain ``PUBLISH``, see docs/protocol.md.
TASK_UPDATES = "task_updates"
GENERAL_UPDATES = "general_updates"

#: Longest task id and longest channel name, in characters: they become dictionary keys and Redis keys.
MAX_NAME_LENGTH = 255

#: Most fields of one task: a publisher that makes up field names must not fill Redis.
MAX_FIELDS = 256
