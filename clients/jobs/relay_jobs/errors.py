"""The errors of managers, workers and handlers, a branch of `relay_client.errors`:

RelayClientError
+-- BacklogFull      too many tasks of this kind wait or run
+-- TaskExists       there is a task of this id already
+-- TaskFailed       raised by a handler: another attempt would not help
"""

from relay_client.errors import RelayClientError


class BacklogFull(RelayClientError):
    """Too many tasks of this kind wait or run. Nothing was created: try later, or start more workers."""


class TaskExists(RelayClientError):
    """There is a task of this id already, or Redis still keeps the state of one that has ended."""


class TaskFailed(RelayClientError):
    """For handlers to raise: the task has failed, and another attempt would not help. Its text becomes the field ``error``."""
