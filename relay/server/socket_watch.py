"""The clients that have no task: one task watches the sockets of all, and says which of them has something to read.

A client that neither sends nor waits for anything is only its socket and its session. What it sends is read, and mostly
answered, by the watching task itself; where that takes an await, the session starts a task of its own, and is left to this
one again when that has ended.

The sockets are in an epoll of their own, which Trio watches like any other descriptor. Each is added once and reported only
when something new has come, so that nothing has to be changed in the kernel when a client gets a task and loses it again.
"""

import select
from contextlib import suppress
from time import monotonic
from typing import Protocol

import structlog
import trio

_log = structlog.get_logger("relay.socket_watch")

#: Sockets that are looked at together. A handshake takes a tenth of a millisecond, the answer to a heartbeat a few
#: microseconds.
AT_ONCE = 16

#: Seconds after which other tasks have their turn, if more can be read. A turn by itself costs as much as several answers.
TURN_SECONDS = 0.0005

_EVENTS = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET

#: Of what is reported: nothing follows what can be read.
_LAST = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Watched(Protocol):
    """What is behind a socket. No method waits, or raises."""

    def on_readable(self, *, is_last: bool) -> None:
        """Something new can be read: bytes, an end or an error.

        Read until there is nothing left, in this call or later: it is not reported twice.

        Args:
            is_last: Behind the bytes that can be read is the end of the connection.
        """

    def abort(self) -> None:
        """Close the socket at once: `on_readable` has raised, which is a bug, and nothing is reported any more."""

    def on_watch_ended(self) -> None:
        """Nothing is reported any more, since the relay stops."""


class SocketWatch:
    """Watches sockets. Run it with `run`, once; all else may be called from any task of the event loop."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, Watched] = {}

        #: Sockets that are added will be reported.
        self.is_open = True

    def add(self, fileno: int, watched: Watched) -> None:
        """Watch a socket until `remove`; what can be read already is reported too.

        Raises:
            OSError: The kernel has no room for it.
        """
        self._epoll.register(fileno, _EVENTS)
        self._watched[fileno] = watched

    def replace(self, fileno: int, watched: Watched) -> None:
        """Report to another one from now on what comes on a socket that is watched."""
        self._watched[fileno] = watched

    def remove(self, fileno: int, watched: Watched, *, stays_open: bool = False) -> None:
        """Report nothing to it any more. May be called again, and when the descriptor is another one's already.

        Args:
            fileno: The descriptor that its socket has or had.
            watched: What is behind it.
            stays_open: The socket goes to others; one that is closed leaves the kernel's list by itself.
        """
        if self._watched.get(fileno) is watched:
            del self._watched[fileno]
            if stays_open:
                with suppress(OSError):
                    self._epoll.unregister(fileno)

    async def run(self) -> None:
        """Report until cancelled; then everything that is still watched is notified of that."""
        poll = self._epoll.poll
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                began = monotonic()
                while events := poll(0, AT_ONCE):
                    for fileno, mask in events:
                        self._report(fileno, mask)
                    if monotonic() - began >= TURN_SECONDS:
                        await trio.lowlevel.checkpoint()
                        began = monotonic()
        finally:
            self.is_open = False
            for behind in list(self._watched.values()):
                behind.on_watch_ended()
            trio.lowlevel.notify_closing(self._epoll.fileno())
            self._epoll.close()

    def _report(self, fileno: int, mask: int) -> None:
        behind = self._watched.get(fileno)
        if behind is None:
            return
        try:
            behind.on_readable(is_last=bool(mask & _LAST))
        except Exception:  # noqa: BLE001 - a bug that one client meets must not end the watch of all others
            _log.exception("a watched client failed")
            self.remove(fileno, behind, stays_open=True)
            behind.abort()
