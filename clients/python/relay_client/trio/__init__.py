"""Relay's clients for Trio: `Publisher`, `TaskReporter`, `CancelListener` (they need the extra ``trio``), `subscribe`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relay_client.cancellation.trio import CancelListener as CancelListener
    from relay_client.subscriber.trio import subscribe as subscribe
    from relay_client.trio.publisher import Publisher as Publisher
    from relay_client.trio.reporter import TaskReporter as TaskReporter

_LAZY_EXPORTS = {
    "CancelListener": "relay_client.cancellation.trio",
    "Publisher": "relay_client.trio.publisher",
    "TaskReporter": "relay_client.trio.reporter",
    "subscribe": "relay_client.subscriber.trio",
}

__all__ = [*_LAZY_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _LAZY_EXPORTS:
        raise AttributeError(f"module 'relay_client.trio' has no attribute {name!r}")
    try:
        return getattr(import_module(_LAZY_EXPORTS[name]), name)
    except ModuleNotFoundError as error:
        if error.name not in ("trio", "trio_asyncio"):
            raise
        raise ImportError(
            "Relay's clients for Trio need more packages: pip install 'trio-relay-client[trio]'"
        ) from error
