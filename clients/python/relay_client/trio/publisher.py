"""Publishing from Trio.

async with Publisher() as publisher:
    await publisher.publish_task_update("task-123", {"status": "in_progress", "progress": 40})
"""

import logging
import math
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Self

import trio
from relay_wire.trio_bridge import trio_asyncio

from relay_client.errors import NotDelivered
from relay_client.publishing.async_base import AsyncPublisher
from relay_client.publishing.sender import Sender
from relay_client.publishing.trio_runtime import TrioRuntime

_log = logging.getLogger("relay_client")


class Publisher(AsyncPublisher):
    """`relay_client.Publisher` for Trio: the same arguments, order, deadlines and errors, for the tasks of one run.

    Use it as ``async with``: the block owns the connection and the task that sends what was posted. Leaving it is `close`; a
    block that is cancelled gives what was posted ``timeout`` seconds. What the block raises comes out as it is, not in a group.

    After a fork the child needs a publisher, and a Trio run, of its own.
    """

    def _set_up(self) -> None:
        self._sender: Sender | None = None
        self._block: AbstractAsyncContextManager[None] | None = None

    @property
    def sender(self) -> Sender:
        """The sender of this publisher's calls, for other parts of this package. Raises RuntimeError before the block."""
        if self._sender is None:
            raise RuntimeError("this publisher is not open: use `async with Publisher() as publisher`")
        return self._sender

    @property
    def is_open(self) -> bool:
        """Within its block."""
        return self._block is not None

    async def __aenter__(self) -> Self:
        self._block = self._open()
        await self._block.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._block is not None
        block, self._block = self._block, None
        await block.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        raised: Exception | None = None
        timeout = self._limits.timeout
        async with trio_asyncio.open_loop() as loop, trio.open_nursery() as nursery:
            self._sender = sender = self._make_sender(TrioRuntime(loop))
            nursery.start_soon(sender.run)
            try:
                yield
                await sender.close()
            except Exception as error:  # noqa: BLE001 - raised again below, outside of the nursery, which would wrap it
                raised = error
                await _close_while_raising(sender, math.inf)
            except BaseException:
                # Half of it for what was posted, half for closing.
                with trio.move_on_after(2 * timeout, shield=True):
                    await _close_while_raising(sender, timeout)
                raise
            finally:
                nursery.cancel_scope.cancel()
        if raised is not None:
            raise raised


async def _close_while_raising(sender: Sender, timeout: float) -> None:
    try:
        await sender.close(timeout)
    except NotDelivered as lost:
        _log.error("while another error was raised: %s", lost)
