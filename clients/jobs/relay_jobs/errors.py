"""What managers and workers raise.

BacklogFull      as many tasks of this kind wait as may
TaskExists       there is a task of this id already
TaskFailed       raised by a handler: it is no use to try again
"""


class BacklogFull(Exception):
    """As many tasks of this kind wait, or run, as may. Nothing was created: try later, or start more workers."""


class TaskExists(Exception):
    """There is a task of this id already, or Redis still knows the state of one that has ended."""


class TaskFailed(Exception):
    """For handlers: the task has failed, and another try would not help. Its text becomes the task's ``error``."""
