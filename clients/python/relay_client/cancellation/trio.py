"""Requests to cancel tasks, for Trio.

async with CancelListener() as listener:
    async with listener.scope("task-123"):
        ...  # is cancelled, and the block raises TaskCancelled
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Self

import trio
from relay_wire.redis_urls import RedisTarget, parse
from relay_wire.trio_bridge import trio_asyncio

from relay_client import environment
from relay_client.cancellation.receiver import CancelReceiver
from relay_client.cancellation.watches import Watch
from relay_client.progress.outcome import TaskCancelled
from relay_client.updates import task_channel


class CancelListener:
    """`relay_client.CancelListener` for the tasks of one Trio run. Use it as ``async with``: the block owns its tasks."""

    def __init__(self, url: str | RedisTarget | None = None, *, timeout: float = 2.0) -> None:
        """Make a listener; the arguments are those of `relay_client.CancelListener`."""
        target = url if isinstance(url, RedisTarget) else parse(url or environment.redis_url())
        self._receiver = CancelReceiver(target, timeout)
        self._block: AbstractAsyncContextManager[None] = self._open()

    def watch(self, task_id: str | int, on_cancel: Callable[[str], object] | None = None) -> Watch:
        """Watch a task that runs; see `relay_client.CancelListener.watch`. `on_cancel` is called in the Trio thread."""
        task_channel(task_id)
        watch = Watch(str(task_id), on_cancel, self._receiver.watches.discard)
        self._receiver.watches.add(watch)
        return watch

    @asynccontextmanager
    async def scope(self, task_id: str | int, on_cancel: Callable[[str], object] | None = None) -> AsyncIterator[Watch]:
        """Run the block in a cancel scope that is cancelled on request. The block then raises TaskCancelled.

        Args:
            task_id: The task.
            on_cancel: Called with the reason just before the scope is cancelled.
        """
        with trio.CancelScope() as scope:

            def cancel(reason: str) -> None:
                if on_cancel is not None:
                    on_cancel(reason)
                scope.cancel()

            with self.watch(task_id, cancel) as watch:
                yield watch
        if scope.cancelled_caught:
            raise TaskCancelled(watch.cancelled.reason or "its cancellation was requested")

    async def __aenter__(self) -> Self:
        await self._block.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._block.__aexit__(None, None, None)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        async with trio_asyncio.open_loop() as loop, trio.open_nursery() as nursery:
            nursery.start_soon(self._receive, loop)
            yield
            nursery.cancel_scope.cancel()

    async def _receive(self, loop: trio_asyncio.TrioEventLoop) -> None:
        await loop.run_aio_coroutine(self._receiver.run())
