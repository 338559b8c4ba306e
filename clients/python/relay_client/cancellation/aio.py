"""Requests to cancel tasks, for asyncio.

async with CancelListener() as listener:
    async with listener.scope("task-123"):
        ...  # is cancelled, and the block raises TaskCancelled
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from relay_wire.redis_urls import RedisTarget, parse

from relay_client import environment
from relay_client.cancellation.receiver import CancelReceiver
from relay_client.cancellation.watches import Watch
from relay_client.progress.outcome import TaskCancelled
from relay_client.updates import task_channel


class CancelListener:
    """`relay_client.CancelListener` for the tasks of one event loop. Use it as ``async with``: the block owns its task."""

    def __init__(self, url: str | RedisTarget | None = None, *, timeout: float = 2.0) -> None:
        """Make a listener; the arguments are those of `relay_client.CancelListener`."""
        target = url if isinstance(url, RedisTarget) else parse(url or environment.redis_url())
        self._receiver = CancelReceiver(target, timeout)
        self._group = asyncio.TaskGroup()

    def watch(self, task_id: str | int, on_cancel: Callable[[str], object] | None = None) -> Watch:
        """Watch a task that runs; see `relay_client.CancelListener.watch`. `on_cancel` is called on the event loop."""
        task_channel(task_id)
        watch = Watch(str(task_id), on_cancel, self._receiver.watches.discard)
        self._receiver.watches.add(watch)
        return watch

    @asynccontextmanager
    async def scope(self, task_id: str | int, on_cancel: Callable[[str], object] | None = None) -> AsyncIterator[Watch]:
        """Cancel the block when the task's cancellation is requested. The block then raises TaskCancelled.

        Within it ``CancelledError`` is raised where it waits. A cancellation of its task by anybody else stays one.

        Args:
            task_id: The task.
            on_cancel: Called with the reason just before the block is cancelled.
        """
        block = asyncio.current_task()
        assert block is not None
        earlier = block.cancelling()
        requested: list[str] = []

        def cancel(reason: str) -> None:
            if on_cancel is not None:
                on_cancel(reason)
            requested.append(reason)
            block.cancel()

        watch = self.watch(task_id, cancel)
        try:
            yield watch
        except asyncio.CancelledError as error:
            if requested and block.uncancel() <= earlier:
                raise TaskCancelled(requested[0] or "its cancellation was requested") from error
            raise
        except BaseException:
            if requested:
                block.uncancel()
            raise
        else:
            if requested:  # the block has caught it
                block.uncancel()
        finally:
            watch.close()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._receiving = self._group.create_task(self._receiver.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._receiving.cancel()
        # Not the error: it is raised as it is, and not in a group.
        await self._group.__aexit__(None, None, None)
