"""`python -m benchmarks.publisher_process`: the process of a publisher, with one socket."""

import random
import select
import socket
import time

import redis

from benchmarks.latency import Latencies
from benchmarks.protocol import Publishing
from benchmarks.publisher import TIMEOUT, Published, PublishFailed
from benchmarks.remote import serve
from benchmarks.wire import Template, Update

_READ = 1 << 16


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


class _Process:
    """The process. Its public methods are the commands."""

    def open(self, *, publishing: Publishing, port: int) -> None:
        self._publishing = publishing
        self._acks = AckCounter(publishing)
        self._pending = 0
        if publishing.script:
            with redis.Redis(port=port) as client:
                client.script_load(publishing.script)
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.setblocking(False)
        if publishing.greeting:
            self._write(publishing.greeting, 0)
            self._flush()

    def use(self, *, updates: list[Update]) -> None:
        self._templates = [Template(self._publishing.command(update)) for update in updates]

    def burst(self, *, count: int, first: int, seed: int) -> Published:
        templates = list(self._templates)
        random.Random(seed).shuffle(templates)
        now = time.monotonic_ns()
        commands = [template.fill(first + i, now) for i in range(count) for template in templates]
        data = b"".join(commands)
        cpu, started = time.process_time(), time.monotonic_ns()
        self._write(data, len(commands))
        return self._finish(started, cpu, 0)

    def paced(self, *, count: int, rate: float) -> Published:
        templates = self._templates
        kinds = len(templates)
        cpu = time.process_time()
        start = time.monotonic_ns() + 10_000_000
        interval = 1e9 / rate
        sent = latest = 0
        while sent < count:
            now = time.monotonic_ns()
            due = min(count, int((now - start) / interval) + 1) if now >= start else 0
            if due <= sent:
                time.sleep(max(0.0, (start + sent * interval - now) / 1e9))
                continue
            latest = max(latest, now - int(start + sent * interval))
            commands = [templates[i % kinds].fill(i // kinds, int(start + i * interval)) for i in range(sent, due)]
            self._write(b"".join(commands), len(commands))
            sent = due
            self._read()
        return self._finish(start, cpu, latest)

    def round_trips(self, *, count: int) -> Latencies:
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
                select.select([self._sock], [self._sock], [], TIMEOUT)
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
        deadline = time.monotonic() + TIMEOUT
        while self._pending > 0:
            if time.monotonic() > deadline:
                raise PublishFailed(f"{self._pending} updates were not acknowledged within {TIMEOUT:.0f} s")
            select.select([self._sock], [], [], 1.0)
            self._read()


if __name__ == "__main__":
    serve(_Process(), errors=(PublishFailed, OSError))
