"""Tasks and forks: what a forked child has of its parent's tasks is not its own."""

import os
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet


class Detachable(Protocol):
    """A task that has begun."""

    def detach_after_fork(self) -> None:
        """In a forked child: report nothing more."""


_open_tasks: "WeakSet[Detachable]" = WeakSet()


#: Notes that a task has begun in this process: a forked child must not report on it.
track: Callable[[Detachable], None] = _open_tasks.add


def _detach_all() -> None:
    for task in tuple(_open_tasks):
        task.detach_after_fork()


os.register_at_fork(after_in_child=_detach_all)
