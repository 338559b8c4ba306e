"""Publishes to a server over one socket: in bursts, on a schedule that is kept, or one by one.

It runs in the suite's own process, which does nothing else meanwhile.
"""

import random
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import redis

from benchmarks.latency import Latencies
from benchmarks.protocol import Publishing
from benchmarks.wire import Template, Update

_READ = 1 << 16

#: Seconds for what a server should do at once.
_TIMEOUT = 60.0


@dataclass(frozen=True)
class Published:
    """When publishing began (on a schedule: was to begin), when all was sent, and when all was acknowledged, in nanoseconds of
    the monotonic clock; CPU seconds of the publisher; seconds by which an update was late at most."""

    started: int
    sent: int
    acknowledged: int
    cpu: float
    late: float


class PublishFailed(Exception):
    """The server refused an update or did not acknowledge it; has its reply."""


class AckCounter:
    """Counts acknowledgements in a stream of replies."""

    def __init__(self, publishing: Publishing) -> None:
        self._publishing = publishing
        self._tail = b""

    def count(self, data: bytes) -> int:
        """Return how many end in this piece of the stream. Raises PublishFailed when one is a refusal."""
        text, ack = self._tail + data, self._publishing.ack
        if any(mark in text for mark in self._publishing.refusals):
            raise PublishFailed(f"the update was refused: {text[:300].decode(errors='replace')}")
        self._tail = text[1 - len(ack) :] if len(ack) > 1 else b""
        return text.count(ack)


class Publisher:
    """A connection for publishing; a context manager that closes it. Calls return when all updates are acknowledged.

    They raise PublishFailed when one is refused, or not acknowledged within a minute, and ConnectionError.
    """

    def __init__(self, publishing: Publishing, port: int) -> None:
        self._publishing = publishing
        self._acks = AckCounter(publishing)
        self._pending = 0
        self._templates: list[Template] = []
        if publishing.script:
            with redis.Redis(port=port) as client:
                client.script_load(publishing.script)
        self._port = port
        self._sock = self._connected()

    def _connected(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self._port), timeout=_TIMEOUT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        return sock

    def __enter__(self) -> Self:
        self._greet()
        return self

    def _greet(self) -> None:
        if self._publishing.greeting:
            self._write(self._publishing.greeting, 0)
            self._flush()

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def use(self, updates: Sequence[Update]) -> None:
        """From now on publish these updates in turn. A connection that the server has closed meanwhile, as HTTP servers do with
        idle ones, is opened again."""
        try:
            is_closed = self._sock.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            is_closed = False
        except ConnectionResetError:
            is_closed = True
        if is_closed:
            self._sock.close()
            self._sock = self._connected()
            self._greet()
        self._templates = [Template(self._publishing.command(update)) for update in updates]

    def burst(self, count: int, *, first: int = 0, seed: int = 0) -> Published:
        """Publish each update `count` times in one go, numbered from `first`; the seed shuffles the order of the updates."""
        templates = list(self._templates)
        random.Random(seed).shuffle(templates)
        now = time.monotonic_ns()
        commands = [template.fill(first + i, now) for i in range(count) for template in templates]
        data = b"".join(commands)
        cpu, started = time.process_time(), time.monotonic_ns()
        self._write(data, len(commands))
        return self._finish(started, cpu, 0)

    def paced(self, count: int, rate: float, *, first: int = 0, shared_sequence: bool = False) -> Published:
        """Publish `count` in all, `rate` a second, each stamped with the time that the schedule has for it. The updates of each
        kind are numbered from `first`; with ``shared_sequence``, all together.

        Where the publisher falls behind, it sends at once all that is due, with the times of the schedule: the latency
        contains the delay, so there is no coordinated omission.
        """
        templates, kinds = self._templates, len(self._templates)
        each = 1 if shared_sequence else kinds
        cpu, start, interval = time.process_time(), time.monotonic_ns() + 10_000_000, 1e9 / rate
        sent = latest = 0
        while sent < count:
            now = time.monotonic_ns()
            due = min(count, int((now - start) / interval) + 1) if now >= start else 0
            if due <= sent:
                time.sleep(max(0.0, (start + sent * interval - now) / 1e9))
                continue
            latest = max(latest, now - int(start + sent * interval))
            commands = [
                templates[i % kinds].fill(first + i // each, int(start + i * interval)) for i in range(sent, due)
            ]
            self._write(b"".join(commands), len(commands))
            sent = due
            self._read()
        return self._finish(start, cpu, latest)

    def round_trips(self, count: int) -> Latencies:
        """Publish one after the other, each when the one before was acknowledged; returns how long each took."""
        taken = Latencies()
        for i in range(count):
            began = time.monotonic_ns()
            self._write(self._templates[i % len(self._templates)].fill(i, began), 1)
            self._flush()
            taken.add(time.monotonic_ns() - began)
        return taken

    def _finish(self, started: int, cpu: float, late: int) -> Published:
        sent = time.monotonic_ns()
        self._flush()
        return Published(started, sent, time.monotonic_ns(), time.process_time() - cpu, late / 1e9)

    def _write(self, data: bytes, commands: int) -> None:
        """Send, and read meanwhile: a server may take no more before its replies were read."""
        if not self._publishing.flush:
            self._pending += commands
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                select.select([self._sock], [self._sock], [], _TIMEOUT)
                self._read()

    def _read(self) -> None:
        try:
            while data := self._sock.recv(_READ):
                self._pending -= self._acks.count(data)
                if len(data) < _READ:
                    return
        except BlockingIOError:
            return
        raise PublishFailed("the server closed the publisher's connection")

    def _flush(self) -> None:
        """Wait until everything is acknowledged."""
        if self._publishing.flush:
            self._write(self._publishing.flush, 0)
            self._pending = 1
        deadline = time.monotonic() + _TIMEOUT
        while self._pending > 0:
            if time.monotonic() > deadline:
                raise PublishFailed(f"{self._pending} updates were not acknowledged within {_TIMEOUT:.0f} s")
            select.select([self._sock], [], [], 1.0)
            self._read()
