"""Relay's clients for asyncio."""

from relay_client.aio.publisher import Publisher
from relay_client.aio.reporter import TaskReporter

__all__ = ["Publisher", "TaskReporter"]
