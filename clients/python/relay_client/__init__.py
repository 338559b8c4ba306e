"""Publish and follow the progress of background tasks through Relay.

From threads: `Publisher`, `TaskReporter`, `TaskManager`. The same for asyncio in `relay_client.aio`, for Trio in
`relay_client.trio`. `Worker` runs tasks, `relay_client.subscribe` follows them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relay_wire.position import Position as Position

    from relay_client.errors import BufferFull as BufferFull
    from relay_client.errors import DeliveryRefused as DeliveryRefused
    from relay_client.errors import DeliveryTimedOut as DeliveryTimedOut
    from relay_client.errors import NotDelivered as NotDelivered
    from relay_client.errors import PostsNotDelivered as PostsNotDelivered
    from relay_client.errors import PublisherClosed as PublisherClosed
    from relay_client.publisher import Publisher as Publisher
    from relay_client.reporter import TaskReporter as TaskReporter
    from relay_client.reporting.task import Task as Task
    from relay_client.reporting.task import TaskCancelled as TaskCancelled
    from relay_client.working.errors import BacklogFull as BacklogFull
    from relay_client.working.errors import TaskExists as TaskExists
    from relay_client.working.errors import TaskFailed as TaskFailed
    from relay_client.working.manager import TaskManager as TaskManager
    from relay_client.working.plans import TaskState as TaskState
    from relay_client.working.worker import Worker as Worker

__version__ = "0.1.0"

#: Where each name is: imported when it is first used, for many a program needs only one of these, and not all of redis-py.
_LAZY_EXPORTS = {
    "BacklogFull": "relay_client.working.errors",
    "BufferFull": "relay_client.errors",
    "DeliveryRefused": "relay_client.errors",
    "DeliveryTimedOut": "relay_client.errors",
    "NotDelivered": "relay_client.errors",
    "Position": "relay_wire.position",
    "PostsNotDelivered": "relay_client.errors",
    "Publisher": "relay_client.publisher",
    "PublisherClosed": "relay_client.errors",
    "Task": "relay_client.reporting.task",
    "TaskCancelled": "relay_client.reporting.task",
    "TaskExists": "relay_client.working.errors",
    "TaskFailed": "relay_client.working.errors",
    "TaskManager": "relay_client.working.manager",
    "TaskReporter": "relay_client.reporter",
    "TaskState": "relay_client.working.plans",
    "Worker": "relay_client.working.worker",
}

__all__ = ["__version__", *_LAZY_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _LAZY_EXPORTS:
        raise AttributeError(f"module 'relay_client' has no attribute {name!r}")
    return getattr(import_module(_LAZY_EXPORTS[name]), name)
