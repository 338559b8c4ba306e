"""The event loop of a load generator: one epoll, and one callable for each descriptor."""

import gc
import json
import os
import select
import sys
import time
from collections.abc import Callable
from typing import Any

_STDIN = 0
_EVENTS = 1024


class Loop:
    """Waits for sockets and for commands. Commands and answers are lines of JSON on standard input and output."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.handlers: dict[int, Callable[[int], None]] = {}
        #: Called after each turn with the number of events that it had.
        self.after_turn: Callable[[int], None] = lambda _: None
        self._commands = b""
        self._ended = False
        self.epoll.register(_STDIN, select.EPOLLIN)
        self.handlers[_STDIN] = self._read_commands

    def add(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        """Call the handler with the events of a descriptor, as long as it is registered."""
        self.handlers[fd] = handler
        self.epoll.register(fd, mask)

    def change(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        """From now on these events and this handler."""
        self.handlers[fd] = handler
        self.epoll.modify(fd, mask)

    def remove(self, fd: int) -> None:
        """Forget a descriptor; before it is closed."""
        del self.handlers[fd]
        self.epoll.unregister(fd)

    def turn(self, timeout: float | None) -> None:
        """Wait for events once and handle them."""
        handlers = self.handlers
        events = self.epoll.poll(timeout, _EVENTS)
        for fd, mask in events:
            handler = handlers.get(fd)  # an earlier event of this turn may have closed it
            if handler is not None:
                handler(mask)
        self.after_turn(len(events))

    def until(self, done: Callable[[], bool], timeout: float) -> bool:
        """Turn until something is the case; false when it is not in time."""
        deadline = time.monotonic() + timeout
        while not done():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.turn(min(left, 0.05))
        return True

    def obey(self, target: object) -> None:
        """Carry out commands by the target's methods named do_..., until standard input ends."""
        while not self._ended:
            line, separator, rest = self._commands.partition(b"\n")
            if not separator:
                self.turn(None)
                continue
            self._commands = rest
            command = json.loads(line)
            answer: dict[str, Any] = getattr(target, "do_" + command.pop("do"))(**command)
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()

    def _read_commands(self, _: int) -> None:
        data = os.read(_STDIN, 1 << 16)
        self._commands += data
        self._ended = not data


def settle_garbage() -> None:
    """Take what there is out of the garbage collector's sight: it is there to stay, and a collection takes long."""
    gc.collect()
    gc.freeze()
