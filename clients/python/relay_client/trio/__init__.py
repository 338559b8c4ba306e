"""Relay's clients for Trio. They need the extra ``trio``."""

try:
    import trio_asyncio  # noqa: F401 - only to say what to do where it is missing
except ImportError as error:
    raise ImportError("Relay's clients for Trio need more packages: pip install 'trio-relay-client[trio]'") from error

from relay_client.trio.publisher import Publisher
from relay_client.trio.reporter import TaskReporter

__all__ = ["Publisher", "TaskReporter"]
