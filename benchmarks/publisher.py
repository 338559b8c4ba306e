"""The publisher: a process with one socket that publishes all at once, on a schedule that is kept, or one by one.

`python -m benchmarks.publisher` is the process; `Publisher` is the suite's side of it.
"""

import json
import random
import select
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.feeds import Feed, FeedFailed, feed_named, name_of
from benchmarks.histogram import Counts, Histogram
from benchmarks.machine import LOAD_CORE
from benchmarks.remote import Remote
from benchmarks.wire import Form, Template

_ANSWERS = 1 << 16
_PATIENCE = 60.0


class Published(NamedTuple):
    """When it began (in a schedule: was to begin), when all was sent, and when all was answered, in nanoseconds of the
    monotonic clock; CPU seconds of the publisher; by how much an update was later than its schedule at most."""

    started: int
    sent: int
    answered: int
    cpu: float
    late: float


class Publisher(Remote):
    """A publisher process for one server. Calls wait until everything is published."""

    def __init__(self, feed: type[Feed], port: int, **options: Any) -> None:
        super().__init__("benchmarks.publisher", LOAD_CORE)
        self.ask("open", name=name_of(feed), port=port, options=options)

    def use(self, forms: Sequence[Form]) -> None:
        """From now on updates have these forms, one after the other: update i has form i modulo their number."""
        self.ask("use", forms=[(form.task, form.data.decode()) for form in forms])

    def burst(self, count: int, *, first: int = 0, seed: int = 0) -> Published:
        """Publish `count` updates of each form in one go, numbered from `first`; the forms' order is shuffled by the seed."""
        return Published(**self.ask("burst", within=_PATIENCE * 2, count=count, first=first, seed=seed))

    def paced(self, count: int, rate: float) -> Published:
        """Publish `count` updates in all, `rate` a second, each stamped with the time that the schedule has for it.

        Where the publisher falls behind, it sends at once all that is due, with the times of the schedule: the latency
        contains the delay, nothing is omitted.
        """
        return Published(**self.ask("paced", within=count / rate + _PATIENCE, count=count, rate=rate))

    def round_trips(self, count: int) -> Histogram:
        """Publish one after the other, each when the one before was answered; returns how long they took."""
        return Histogram.of(self.ask("round_trips", within=_PATIENCE, count=count)["took"])


class _Process:
    """The process' side."""

    def __init__(self) -> None:
        self._templates: list[Template] = []
        self._sock: socket.socket
        self._feed: Feed
        self._unanswered = 0

    def do_open(self, *, name: str, port: int, options: dict[str, Any]) -> dict[str, Any]:
        self._feed = feed_named(name, port, options)
        self._feed.prepare()
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.setblocking(False)
        if self._feed.greeting:
            self._write(self._feed.greeting, 0)
            self._flush()
        return {}

    def do_use(self, *, forms: list[tuple[str | None, str]]) -> dict[str, Any]:
        self._templates = [self._feed.template(Form(task, data.encode())) for task, data in forms]
        return {}

    def do_burst(self, *, count: int, first: int, seed: int) -> dict[str, Any]:
        templates = list(self._templates)
        random.Random(seed).shuffle(templates)
        now = time.monotonic_ns()
        commands = [template.fill(first + i, now) for i in range(count) for template in templates]
        data = b"".join(commands)
        cpu, started = time.process_time(), time.monotonic_ns()
        self._write(data, len(commands))
        sent = time.monotonic_ns()
        self._flush()
        return self._published(started, sent, cpu, 0)

    def do_paced(self, *, count: int, rate: float) -> dict[str, Any]:
        templates = self._templates
        forms = len(templates)
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
            commands = [templates[i % forms].fill(i // forms, int(start + i * interval)) for i in range(sent, due)]
            self._write(b"".join(commands), len(commands))
            sent = due
            self._read_answers()
        ended = time.monotonic_ns()
        self._flush()
        return self._published(start, ended, cpu, latest)

    def do_round_trips(self, *, count: int) -> dict[str, Any]:
        took = Counts()
        for i in range(count):
            template = self._templates[i % len(self._templates)]
            began = time.monotonic_ns()
            self._write(template.fill(i, began), 1)
            self._flush()
            took.add(time.monotonic_ns() - began)
        return {"took": took.buckets}

    def _published(self, started: int, sent: int, cpu: float, late: int) -> dict[str, Any]:
        return Published(started, sent, time.monotonic_ns(), time.process_time() - cpu, late / 1e9)._asdict()

    def _write(self, data: bytes, commands: int) -> None:
        """Send, and read answers meanwhile: a server may take no more before its answers were read."""
        if not self._feed.flush:
            self._unanswered += commands
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                select.select([self._sock], [self._sock], [], _PATIENCE)
                self._read_answers()

    def _read_answers(self) -> None:
        try:
            while True:
                data = self._sock.recv(_ANSWERS)
                if not data:
                    raise FeedFailed("the server hung up on the publisher")
                self._unanswered -= self._feed.answers(data)
                if len(data) < _ANSWERS:
                    return
        except BlockingIOError:
            return

    def _flush(self) -> None:
        """Wait until everything is answered."""
        if self._feed.flush:
            self._unanswered = 0
            self._write(self._feed.flush, 0)
            self._unanswered = 1
        deadline = time.monotonic() + _PATIENCE
        while self._unanswered > 0:
            if time.monotonic() > deadline:
                raise FeedFailed(f"{self._unanswered} updates were not answered within {_PATIENCE:.0f} s")
            select.select([self._sock], [], [], 1.0)
            self._read_answers()


def main() -> None:
    """Obey until standard input ends."""
    process = _Process()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(process, "do_" + command.pop("do"))(**command)
        except (FeedFailed, OSError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
