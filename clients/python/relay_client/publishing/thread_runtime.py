"""The primitives of a thread: coroutines that block, and never suspend."""

import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from time import monotonic
from types import TracebackType
from typing import Any, Self

#: A thread that waits looks by itself this often, in seconds, for so long after it has found something: see
#: `ThreadSignal.set_soon`.
_POLL_SECONDS = 0.01
_POLLING_SECONDS = 0.25


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
        self._is_pending = False
        self._is_polling = False
        self._polls_until = 0.0

    def set(self) -> None:
        """See `relay_client.publishing.runtime.Signal`."""
        with suppress(RuntimeError):  # it is set already
            self._lock.release()

    def set_soon(self) -> None:
        """Set it, at the latest in a hundredth of a second.

        Waking a thread costs more than most reports do. One that has found something just now looks by itself, so it is not
        woken.
        """
        self._is_pending = True  # before the look at the flag, which the waiting thread resets before it looks at this
        if not self._is_polling:
            self.set()

    async def wait(self, timeout: float | None) -> bool:
        """See `relay_client.publishing.runtime.Signal`. Blocks the thread."""
        now = monotonic()
        end = None if timeout is None else now + timeout
        self._is_polling = True
        try:
            while not self._is_pending and now < self._polls_until and (end is None or now < end):
                if self.wait_blocking(_POLL_SECONDS if end is None else min(_POLL_SECONDS, end - now)):
                    return self._found()
                now = monotonic()
        finally:
            self._is_polling = False
        if self._is_pending:
            self.wait_blocking(0.0)  # it may be set as well
            return self._found()
        return self.wait_blocking(None if end is None else end - now) and self._found()

    def _found(self) -> bool:
        if self._is_pending:
            self._is_pending = False
            self._polls_until = monotonic() + _POLLING_SECONDS
        return True

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
    """See `relay_client.publishing.runtime.Runtime`. For the one thread that is the sender.

    Attributes:
        work: The one signal that the thread waits for.
    """

    def __init__(self) -> None:
        self.work = ThreadSignal()

    def check_owner(self) -> None:
        """See `Runtime.check_owner`."""

    def lock(self) -> AbstractAsyncContextManager[Any]:
        """See `Runtime.lock`: one thread needs none."""
        return nullcontext()

    def signal(self) -> ThreadSignal:
        """See `Runtime.signal`."""
        return self.work

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
