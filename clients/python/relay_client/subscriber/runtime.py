"""The primitives that the subscriber needs from an event loop: `trio` and `aio` implement them, `threads` builds on `aio`.

Structured like the loops themselves: nothing runs that is not inside `in_background` or `run_until_first_ends`, and cancelling
the caller cancels what runs there.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from relay_client.subscriber.endpoint import Endpoint

#: Most bytes that are read at once.
READ_SIZE = 65536

AsyncFunction = Callable[[], Awaitable[None]]


class ConnectError(Exception):
    """There is no connection.

    Attributes:
        certificate_invalid: The other side answered, without a valid certificate for the host.
    """

    def __init__(self, message: str, *, certificate_invalid: bool = False) -> None:
        super().__init__(message)
        self.certificate_invalid = certificate_invalid


class Stream(Protocol):
    """A connected socket, with TLS where the URL has it. One task sends while another receives."""

    async def send_all(self, data: bytes) -> None:
        """Send everything. Raises OSError if the connection is broken. Cancelled, the stream must be aborted."""

    async def receive_some(self) -> bytes:
        """Return 1 to `READ_SIZE` bytes, or b"" at the end. Raises OSError if the connection is broken."""

    def abort(self) -> None:
        """Close the socket at once."""


class Signal(Protocol):
    """Wakes the tasks that wait at the moment.

    Nothing is remembered: check the condition, then wait, without an await between.
    """

    def notify(self) -> None:
        """Wake all that wait."""

    async def wait(self) -> None:
        """Wait for the next `notify`."""


class Runtime(Protocol):
    """An event loop."""

    def current_time(self) -> float:
        """Return the loop's time, in seconds."""

    def new_signal(self) -> Signal:
        """Make a signal."""

    def deadline(self, at: float) -> AbstractAsyncContextManager[object]:
        """Raise TimeoutError when the block is not left by that time; ``math.inf`` for never."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    async def checkpoint(self) -> None:
        """Do what the loop expects of every async call, even of one that has nothing to wait for."""

    async def connect(self, endpoint: Endpoint) -> Stream:
        """Connect. Raises ConnectError. Cancelled, nothing is left open."""

    async def run_until_first_ends(self, first: AsyncFunction, second: AsyncFunction) -> None:
        """Run both, and cancel the other when one returns. An error of either is a bug, and comes out in a group."""

    def in_background(self, function: AsyncFunction) -> AbstractAsyncContextManager[None]:
        """Run a function for the time of the block, and cancel it at the end. What the block raises comes out as it is."""
