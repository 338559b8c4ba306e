"""The primitives of a thread: coroutines that block, and never suspend."""

import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from types import TracebackType
from typing import Any, Self


def run_blocking(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise RuntimeError("a coroutine of a thread has suspended")


class ThreadSignal:
    """A lock as a binary semaphore: setting it is one atomic step, which a signal handler may interrupt or take.

    `threading.Event` has a lock inside, which an exception of a signal handler may leave locked.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """See `relay_client.publishing.runtime.Signal`."""
        with suppress(RuntimeError):  # it is set already
            self._lock.release()

    async def wait(self, timeout: float | None) -> bool:
        """See `relay_client.publishing.runtime.Signal`. Blocks the thread."""
        return self.wait_blocking(timeout)

    def wait_blocking(self, timeout: float | None) -> bool:
        """Block until it is set, at most `timeout` seconds; return whether it was."""
        longest = threading.TIMEOUT_MAX
        return self._lock.acquire(timeout=longest if timeout is None else max(0.0, min(timeout, longest)))


class _NoLimit:
    """A block without a time limit: what blocks a thread has time-outs of its own."""

    has_expired = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class ThreadRuntime:
    """See `relay_client.publishing.runtime.Runtime`. For the one thread that is the sender."""

    def check_owner(self) -> None:
        """See `Runtime.check_owner`."""

    def lock(self) -> AbstractAsyncContextManager[Any]:
        """See `Runtime.lock`: one thread needs none."""
        return nullcontext()

    def signal(self) -> ThreadSignal:
        """See `Runtime.signal`."""
        return ThreadSignal()

    def move_on_after(self, seconds: float) -> _NoLimit:  # noqa: ARG002
        """See `Runtime.move_on_after`."""
        return _NoLimit()

    async def sleep(self, seconds: float) -> None:
        """See `Runtime.sleep`."""
        time.sleep(seconds)  # noqa: ASYNC251 - its coroutines block

    async def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """See `Runtime.call`."""
        return await coroutine

    def cancellation_count(self) -> int:
        """See `Runtime.cancellation_count`. Threads are not cancelled."""
        return 0

    def raise_swallowed(self, count: int) -> None:
        """See `Runtime.raise_swallowed`."""

    async def finish(self, function: Callable[[], Awaitable[None]], *, grace: float, limit: float) -> None:  # noqa: ARG002
        """See `Runtime.finish`."""
        await function()
