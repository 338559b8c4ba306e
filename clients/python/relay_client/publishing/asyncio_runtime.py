"""The primitives of asyncio, for the sender and the reporter."""

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType
from typing import Any, Self


def cancellation_count() -> int:
    """Return how often the current task was cancelled.

    Sentinels and nodes of a cluster need redis-py's own time-outs, to give the next one a chance: there a cancellation may be
    swallowed, and this shows it.
    """
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


class _Signal:
    """See `relay_client.publishing.runtime.Signal`."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    def set(self) -> None:
        if self._loop is None or threading.get_ident() == self._thread:
            self._event.set()
        else:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, timeout: float | None) -> bool:
        if self._loop is None:
            self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._event.wait()
        was_set = self._event.is_set()
        self._event.clear()
        return was_set


class _Scope:
    """See `relay_client.publishing.runtime.Scope`."""

    def __init__(self, seconds: float) -> None:
        self._timeout = asyncio.timeout(None if math.isinf(seconds) else seconds)
        self.has_expired = False

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            self.has_expired = True
        return self.has_expired


class AsyncioRuntime:
    """See `relay_client.publishing.runtime.Runtime`. Belongs to the first event loop that it is used on."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def check_owner(self) -> None:
        """See `Runtime.check_owner`."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError("this publisher was used on another event loop before: make one for each event loop")

    def lock(self) -> AbstractAsyncContextManager[Any]:
        """See `Runtime.lock`."""
        return asyncio.Lock()

    def signal(self) -> _Signal:
        """See `Runtime.signal`."""
        return _Signal()

    def move_on_after(self, seconds: float) -> _Scope:
        """See `Runtime.move_on_after`."""
        return _Scope(seconds)

    async def sleep(self, seconds: float) -> None:
        """See `Runtime.sleep`."""
        await asyncio.sleep(seconds)

    async def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """See `Runtime.call`."""
        return await coroutine

    def cancellation_count(self) -> int:
        """See `Runtime.cancellation_count`."""
        return cancellation_count()

    def raise_swallowed(self, count: int) -> None:
        """See `Runtime.raise_swallowed`."""
        if cancellation_count() > count:
            raise asyncio.CancelledError

    async def finish(self, function: Callable[[], Awaitable[None]], *, grace: float, limit: float) -> None:
        """See `Runtime.finish`."""

        async def run() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(limit):
                    await function()

        task = asyncio.create_task(run())
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task], timeout=grace)
            raise
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # has been raised, or comes second to the cancellation
