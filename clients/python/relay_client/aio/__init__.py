"""Relay's clients for asyncio: `Publisher`, `TaskReporter`, `CancelListener`, `subscribe`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relay_client.aio.publisher import Publisher as Publisher
    from relay_client.aio.reporter import TaskReporter as TaskReporter
    from relay_client.cancellation.aio import CancelListener as CancelListener
    from relay_client.subscriber.aio import subscribe as subscribe

#: The module of each name, which is imported when the name is first used.
_LAZY_EXPORTS = {
    "CancelListener": "relay_client.cancellation.aio",
    "Publisher": "relay_client.aio.publisher",
    "TaskReporter": "relay_client.aio.reporter",
    "subscribe": "relay_client.subscriber.aio",
}

__all__ = [*_LAZY_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _LAZY_EXPORTS:
        raise AttributeError(f"module 'relay_client.aio' has no attribute {name!r}")
    return getattr(import_module(_LAZY_EXPORTS[name]), name)
