"""Publish and follow the progress of background tasks through Relay.

From threads: `Publisher`, `TaskReporter`, `TaskManager`. The same for asyncio in `relay_client.aio`, for Trio in
`relay_client.trio`. `Worker` runs tasks, `relay_client.subscribe` follows them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relay_client.durable import Position as Position
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
_PLACES = {
    "BacklogFull": "working.errors",
    "BufferFull": "errors",
    "DeliveryRefused": "errors",
    "DeliveryTimedOut": "errors",
    "NotDelivered": "errors",
    "Position": "durable",
    "PostsNotDelivered": "errors",
    "Publisher": "publisher",
    "PublisherClosed": "errors",
    "Task": "reporting.task",
    "TaskCancelled": "reporting.task",
    "TaskExists": "working.errors",
    "TaskFailed": "working.errors",
    "TaskManager": "working.manager",
    "TaskReporter": "reporter",
    "TaskState": "working.plans",
    "Worker": "working.worker",
}

__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'relay_client' has no attribute {name!r}")
    return getattr(import_module(f"relay_client.{_PLACES[name]}"), name)
