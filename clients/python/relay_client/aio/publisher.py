"""Publishing from asyncio.

async with Publisher() as publisher:
    await publisher.publish_task_update("task-123", {"status": "in_progress", "progress": 40})
"""

import asyncio
import logging
import math
from types import TracebackType
from typing import Self

from relay_client.errors import NotDelivered
from relay_client.publishing.async_base import AsyncPublisher
from relay_client.publishing.asyncio_runtime import AsyncioRuntime
from relay_client.publishing.sender import Sender

_log = logging.getLogger("relay_client")


class Publisher(AsyncPublisher):
    """`relay_client.Publisher` for asyncio: the same arguments, order, deadlines and errors, for the tasks of one event loop.

    ``publish_...`` works from the beginning: the task that waits also sends. ``post_...`` needs ``async with``: the block owns
    the task that sends what was posted. Leaving the block is `close`; a block that is cancelled gives what was posted
    ``timeout`` seconds. What the block raises comes out as it is, not in a group.

    It belongs to the event loop that it is first used on; on another one it raises RuntimeError before anything is sent. After
    a fork the child needs a publisher, and an event loop, of its own.
    """

    def _set_up(self) -> None:
        self._sender = self._make_sender(AsyncioRuntime())
        self._group: asyncio.TaskGroup | None = None
        self._background: asyncio.Task[None] | None = None

    @property
    def sender(self) -> Sender:
        """The sender of this publisher's calls, for other parts of this package."""
        return self._sender

    @property
    def is_open(self) -> bool:
        """Within its block."""
        return self._group is not None

    async def __aenter__(self) -> Self:
        self._sender.runtime.check_owner()
        self._group = asyncio.TaskGroup()
        await self._group.__aenter__()
        self._background = self._group.create_task(self._sender.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._group is not None
        assert self._background is not None
        group, self._group = self._group, None
        try:
            is_cancelled = kind is not None and issubclass(kind, asyncio.CancelledError)
            await self._sender.close(self._limits.timeout if is_cancelled else math.inf)
        except NotDelivered as lost:
            if error is None:
                raise
            _log.error("while another error was raised: %s", lost)
        finally:
            self._background.cancel()
            # Not the error: it is raised as it is, and not in a group.
            await group.__aexit__(None, None, None)
