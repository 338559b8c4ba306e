"""Publish and follow the progress of background tasks through Relay.

For threads: `Publisher`, `TaskReporter`, `CancelListener`, `subscribe`. The same names for asyncio are in `relay_client.aio`,
for Trio in `relay_client.trio`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

    from relay_wire.position import Position as Position

    from relay_client.cancellation.threads import CancelListener as CancelListener
    from relay_client.errors import BackgroundDeliveryError as BackgroundDeliveryError
    from relay_client.errors import BufferFull as BufferFull
    from relay_client.errors import DeliveryRefused as DeliveryRefused
    from relay_client.errors import DeliveryTimedOut as DeliveryTimedOut
    from relay_client.errors import NotDelivered as NotDelivered
    from relay_client.errors import PublisherClosed as PublisherClosed
    from relay_client.errors import RelayClientError as RelayClientError
    from relay_client.progress.current import current_task as current_task
    from relay_client.progress.outcome import TaskCancelled as TaskCancelled
    from relay_client.progress.task import Task as Task
    from relay_client.publisher import Publisher as Publisher
    from relay_client.reporter import TaskReporter as TaskReporter
    from relay_client.subscriber.threads import subscribe as subscribe

#: The module of each name. It is imported when the name is first used: most programs need one of them, and not all of redis-py.
_LAZY_EXPORTS = {
    "BackgroundDeliveryError": "relay_client.errors",
    "BufferFull": "relay_client.errors",
    "CancelListener": "relay_client.cancellation.threads",
    "DeliveryRefused": "relay_client.errors",
    "DeliveryTimedOut": "relay_client.errors",
    "NotDelivered": "relay_client.errors",
    "Position": "relay_wire.position",
    "Publisher": "relay_client.publisher",
    "PublisherClosed": "relay_client.errors",
    "RelayClientError": "relay_client.errors",
    "Task": "relay_client.progress.task",
    "TaskCancelled": "relay_client.progress.outcome",
    "TaskReporter": "relay_client.reporter",
    "current_task": "relay_client.progress.current",
    "subscribe": "relay_client.subscriber.threads",
}

__all__ = ["__version__", *_LAZY_EXPORTS]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("trio-relay-client")
    if name not in _LAZY_EXPORTS:
        raise AttributeError(f"module 'relay_client' has no attribute {name!r}")
    return getattr(import_module(_LAZY_EXPORTS[name]), name)
