"""The primitives that the sender and the reporter need of a runtime: asyncio, Trio, or a thread whose coroutines block."""

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol


class Signal(Protocol):
    """An event that resets itself whenever a wait for it ends."""

    def set(self) -> None:
        """Wake the one that waits, or the next one that will. From any thread."""

    async def wait(self, timeout: float | None) -> bool:
        """Wait until it is set, at most `timeout` seconds; return whether it was."""


class Scope(Protocol):
    """A block with a time limit."""

    @property
    def has_expired(self) -> bool:
        """The block was left because its time was over."""


class Runtime(Protocol):
    """The primitives of one event loop."""

    def check_owner(self) -> None:
        """Raise RuntimeError on another event loop than the first one this was used on."""

    def lock(self) -> AbstractAsyncContextManager[Any]:
        """Return a fair lock."""

    def signal(self) -> Signal:
        """Return a signal that is not set."""

    def move_on_after(self, seconds: float) -> AbstractAsyncContextManager[Scope]:
        """Return a block that is left after so many seconds, without an error."""

    async def sleep(self, seconds: float) -> None:
        """Sleep."""

    async def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Return the result of a coroutine that talks to Redis."""

    def cancellation_count(self) -> int:
        """Return how often the current task was cancelled, where redis-py may swallow a cancellation; else 0."""

    def raise_swallowed(self, count: int) -> None:
        """Raise the runtime's cancellation if the current task was cancelled more than `count` times."""

    async def finish(self, function: Callable[[], Awaitable[None]], *, grace: float, limit: float) -> None:
        """Run a function to its end although the caller is cancelled meanwhile.

        Args:
            function: It must not raise an Exception.
            grace: Seconds that it has after a cancellation, which is raised then.
            limit: Seconds that it has altogether.
        """
