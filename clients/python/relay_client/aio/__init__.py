"""Relay's clients for asyncio: `Publisher`, `TaskReporter`, `TaskManager`, `subscribe`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relay_client.aio.publisher import Publisher as Publisher
    from relay_client.aio.reporter import TaskReporter as TaskReporter
    from relay_client.subscriber.aio import subscribe as subscribe
    from relay_client.working.aio_manager import TaskManager as TaskManager

_PLACES = {
    "Publisher": "aio.publisher",
    "TaskManager": "working.aio_manager",
    "TaskReporter": "aio.reporter",
    "subscribe": "subscriber.aio",
}

__all__ = [*_PLACES]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'relay_client.aio' has no attribute {name!r}")
    return getattr(import_module(f"relay_client.{_PLACES[name]}"), name)
