"""The event loop of a load generator: one epoll, and one callable for each descriptor."""

import select
import time
from collections.abc import Callable

_MAX_EVENTS = 1024
_MAX_WAIT = 0.05

READ, WRITE = select.EPOLLIN, select.EPOLLOUT


class Loop:
    """Waits for sockets. ``after_turn`` is called after each turn with the number of events that it had."""

    def __init__(self, after_turn: Callable[[int], None]) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._after_turn = after_turn

    def add(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        """Call the handler with the events of a descriptor until it is removed."""
        self._handlers[fd] = handler
        self._epoll.register(fd, mask)

    def change(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        """Replace events and handler of a descriptor."""
        self._handlers[fd] = handler
        self._epoll.modify(fd, mask)

    def remove(self, fd: int) -> None:
        """Forget a descriptor; call this before it is closed."""
        del self._handlers[fd]
        self._epoll.unregister(fd)

    def turn(self, timeout: float | None) -> None:
        """Wait for events once and handle them."""
        handlers = self._handlers
        events = self._epoll.poll(timeout, _MAX_EVENTS)
        for fd, mask in events:
            handler = handlers.get(fd)  # an earlier event of this turn may have closed it
            if handler is not None:
                handler(mask)
        self._after_turn(len(events))

    def until(self, done: Callable[[], bool], deadline: float) -> None:
        """Turn until something is the case, or the deadline on the monotonic clock has passed."""
        while not done() and (left := deadline - time.monotonic()) > 0:
            self.turn(min(left, _MAX_WAIT))

    def sleep(self, seconds: float) -> None:
        """Handle events for some time."""
        self.until(lambda: False, time.monotonic() + seconds)
