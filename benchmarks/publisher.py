"""The publisher: raw RESP over one socket, either all at once or on a schedule that is kept."""

import contextlib
import socket
import time
from types import TracebackType
from typing import Self

from benchmarks.wire import Form

#: A bulk of replies that is read in one call; the replies themselves are of no interest but must not pile up.
_REPLIES = 1 << 16


def _command(channel: str, update: bytes) -> bytes:
    name = channel.encode()
    return b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(name), name, len(update), update)


class Publisher:
    """A connection to Redis that publishes; a context manager that closes it."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sock.close()

    def burst(self, form: Form, count: int) -> int:
        """Publish `count` updates in one write; returns when that began, in nanoseconds of the monotonic clock."""
        now = time.monotonic_ns()
        commands = b"".join(_command(form.channel, form.update(i, now)) for i in range(count))
        started = time.monotonic_ns()
        self._sock.sendall(commands)
        answered = 0
        while answered < count:
            replies = self._sock.recv(_REPLIES)
            if not replies:
                raise ConnectionError("Redis hung up")
            answered += replies.count(b"\n")
        return started

    def one(self, form: Form) -> int:
        """Publish one update; returns when, as `burst` does."""
        return self.burst(form, 1)

    def paced(self, form: Form, count: int, rate: float) -> float:
        """Publish `count` updates, `rate` a second, each stamped with the time that the schedule has for it.

        Where the publisher falls behind, it sends at once all that is due, with the times of the schedule: the latency
        contains the delay, nothing is omitted. Returns the longest that an update was late, in seconds.
        """
        self._sock.setblocking(False)
        start = time.monotonic_ns() + 10_000_000
        interval = 1e9 / rate
        sent = 0
        latest = 0
        while sent < count:
            now = time.monotonic_ns()
            due = min(count, int((now - start) / interval) + 1) if now >= start else 0
            if due <= sent:
                time.sleep(max(0.0, (start + sent * interval - now) / 1e9))
                continue
            latest = max(latest, now - int(start + sent * interval))
            commands = (_command(form.channel, form.update(i, int(start + i * interval))) for i in range(sent, due))
            self._write(b"".join(commands))
            sent = due
            self._read_replies()
        self._sock.setblocking(True)
        return latest / 1e9

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                self._read_replies()
                time.sleep(0.0005)

    def _read_replies(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while len(self._sock.recv(_REPLIES)) == _REPLIES:
                pass
