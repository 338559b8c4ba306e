"""A job queue on Redis whose jobs are Relay's tasks: everybody can watch how they go on.

A `TaskManager` (for asyncio: `relay_jobs.aio.TaskManager`) creates tasks and hands them to workers through Redis. A `Worker`
runs their handlers; the command ``relay-worker`` runs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

    from relay_jobs.errors import BacklogFull as BacklogFull
    from relay_jobs.errors import TaskExists as TaskExists
    from relay_jobs.errors import TaskFailed as TaskFailed
    from relay_jobs.manager import TaskManager as TaskManager
    from relay_jobs.operations import TaskState as TaskState
    from relay_jobs.worker import Worker as Worker

#: The module of each name, which is imported when the name is first used: managers need no worker, and workers no manager.
_LAZY_EXPORTS = {
    "BacklogFull": "relay_jobs.errors",
    "TaskExists": "relay_jobs.errors",
    "TaskFailed": "relay_jobs.errors",
    "TaskManager": "relay_jobs.manager",
    "TaskState": "relay_jobs.operations",
    "Worker": "relay_jobs.worker",
}

__all__ = ["__version__", *_LAZY_EXPORTS]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("trio-relay-jobs")
    if name not in _LAZY_EXPORTS:
        raise AttributeError(f"module 'relay_jobs' has no attribute {name!r}")
    return getattr(import_module(_LAZY_EXPORTS[name]), name)
