"""slow: a few clients that stop reading, among many that read. Do the many notice? Are the few gone, and when?

Runs with and without the few alternate on the same relay and the same readers; the ratio of the readers' p99 is taken for
each pair of neighbours.
"""

import json
import threading
import time
from collections import Counter
from contextlib import ExitStack
from datetime import datetime
from types import TracebackType
from typing import Any, NamedTuple, Self

from benchmarks.load import SATURATED, Load, Received
from benchmarks.machine import quick_memory_of
from benchmarks.publisher import Publisher
from benchmarks.results import Check, Context, Report, median, milliseconds, percent
from benchmarks.servers import Server, Valkey, start_relay
from benchmarks.wire import Form, task_form

READERS = 200
STALLED = 5
SIZE = 8192
RATE = 125
UPDATES, QUICK_UPDATES = 2500, 500
PAIRS, QUICK_PAIRS = 5, 3

TARGET_RATIO = 1.2

#: Relay's bound in age is 10 s and its goodbye takes 2 s at most; a stalled client that is there after this is not dropped.
_HANG_UP_TIMEOUT = 30.0

_GREETING = '{"type":"subscribe","task_id":"bench"}'

_HEADER = (
    *("run", "p50", "p99", "max", "dropped at", "TCP gone after"),
    *("MB before", "peak", "after", "server CPU", "load CPU"),
)


class Memory:
    """Watches the resident memory of a process while the block runs."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.before = self.peak = self.after = quick_memory_of(pid)

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            self.peak = max(self.peak, quick_memory_of(self._pid))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self.after = quick_memory_of(self._pid)


class Run(NamedTuple):
    """One run; times of stalled clients in seconds, None for those that were not dropped."""

    stalled: int
    received: Received
    seconds: float
    server_cpu: float
    late: float
    memory: Memory
    dropped_after: list[float | None]
    gone_after: list[float | None]
    readers_dropped: dict[str, int]

    @property
    def is_whole(self) -> bool:
        """All readers, those that an earlier run may have lost included, have every update in order."""
        return self.received.is_whole and self.received.readers == READERS

    @property
    def p99(self) -> int:
        """Of all readers together."""
        return self.received.latency.quantile(0.99)


class Drop(NamedTuple):
    """When relay dropped a client, and why."""

    at: float
    reason: str


def drops(log: str) -> dict[int, Drop]:
    """The drops that relay has logged, by the client's port."""
    found = {}
    for line in log.splitlines():
        if '"client dropped"' in line:
            entry = json.loads(line)
            at = datetime.fromisoformat(entry["timestamp"]).timestamp()
            found[int(entry["client"].rpartition(":")[2])] = Drop(at, entry["reason"])
    return found


def _run_once(server: Server, load: Load, publisher: Publisher, form: Form, updates: int, stalled: int) -> Run:
    ports: list[int] = []
    if stalled:
        ports = load.connect(server.port, stalled, _GREETING, stalled=stalled).stalled_ports
    load.arm(updates, form)
    time.sleep(0.3)
    before, started, wall = server.cpu(), time.monotonic(), time.time()
    with Memory(server.pid) as memory:
        late = publisher.paced(form, updates, RATE)
        received = load.collect(_HANG_UP_TIMEOUT, hang_ups=bool(stalled))
        seconds = updates / RATE
        cpu = server.cpu().since(before).ran / (time.monotonic() - started)
        time.sleep(0.5)
    dropped = {port: drop for port, drop in drops(server.log.read_text(errors="replace")).items() if drop.at >= wall}
    readers_dropped = Counter(drop.reason for port, drop in dropped.items() if port not in ports)
    gone = [(dropped[port].at if port in dropped else None, received.gone.get(port)) for port in ports]
    load.forget_stalled()
    return Run(
        stalled, received, seconds, cpu, late, memory,
        [None if at is None else at - wall for at, _ in gone],
        [None if at is None or end is None else end - at for at, end in gone],
        dict(readers_dropped),
    )  # fmt: skip


def run(context: Context) -> Report:
    """Relay alone: the others have no bounds to keep."""
    updates = QUICK_UPDATES if context.quick else UPDATES
    pairs = QUICK_PAIRS if context.quick else PAIRS
    form = task_form("bench", SIZE)
    runs: list[Run] = []
    with ExitStack() as stack:
        directory = context.directory / "slow"
        valkey = stack.enter_context(Valkey(directory))
        server = stack.enter_context(start_relay(directory, valkey))
        load = stack.enter_context(Load())
        load.connect(server.port, READERS, _GREETING)
        publisher = stack.enter_context(Publisher(valkey.port))
        load.arm(RATE, form)
        publisher.paced(form, RATE, RATE)
        load.collect(_HANG_UP_TIMEOUT)
        for i in range(2 * pairs):
            stalled = 0 if i % 2 == 0 else STALLED
            context.say(f"slow: run {i + 1} of {2 * pairs}, {stalled} clients stalled, {updates / RATE:.0f} s")
            runs.append(_run_once(server, load, publisher, form, updates, stalled))
    report = Report(
        "slow",
        {"readers": READERS, "stalled": STALLED, "updates": updates, "bytes": SIZE, "rate": RATE, "pairs": pairs},
        _HEADER,
    )
    _summarize(report, runs)
    return report


def _span(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not values:
        return "-"
    if len(known) < len(values):
        return f"{len(values) - len(known)} never"
    return f"{min(known):.1f}-{max(known):.1f} s"


def _summarize(report: Report, runs: list[Run]) -> None:
    shown: list[dict[str, Any]] = []
    for one in runs:
        latency, memory = one.received.latency, one.memory
        load_share = one.received.cpu / one.seconds
        report.rows.append(
            [
                f"{one.stalled} stalled", milliseconds(latency.quantile(0.5)), milliseconds(one.p99),
                milliseconds(latency.quantile(1)), _span(one.dropped_after), _span(one.gone_after),
                *(f"{size / 1e6:.1f}" for size in (memory.before, memory.peak, memory.after)),
                percent(one.server_cpu), percent(load_share),
            ]
        )  # fmt: skip
        shown.append(
            {
                "stalled": one.stalled, "latency": latency.to_json(), "p99": one.p99, "publisher_late": one.late,
                "server_cpu": one.server_cpu, "load_cpu": load_share, "dropped_after": one.dropped_after,
                "gone_after": one.gone_after, "memory": [memory.before, memory.peak, memory.after],
                "whole": one.is_whole, "readers_dropped": one.readers_dropped,
                "out_of_order": one.received.disordered, "closed": one.received.closed,
            }
        )  # fmt: skip
        if one.received.closed or one.received.disordered:
            reasons = ", ".join(f"{count} {reason}" for reason, count in one.readers_dropped.items()) or "none"
            report.notes.append(
                f"{one.received.closed} readers lost their connection (drops that relay logged: {reasons}), "
                f"{one.received.disordered} updates out of order"
            )
        if load_share > SATURATED:
            report.notes.append("the load generator was saturated: the latencies are its own")
    ratios = [with_them.p99 / without.p99 for without, with_them in zip(runs[::2], runs[1::2], strict=True)]
    alone = [one.p99 for one in runs[::2]]
    noise = max(alone) / min(alone)
    late = max(one.late for one in runs)
    report.notes.append(f"the publisher was up to {late * 1000:.0f} ms late, which the latency contains")
    report.notes.append(
        f"p99 ratios of the pairs: {', '.join(f'{ratio:.2f}' for ratio in ratios)}; the runs without stalled clients differ "
        f"among themselves by up to {noise:.2f}, which is the noise"
    )
    gone = [after for one in runs for after in one.gone_after]
    report.data = {"runs": shown, "ratios": ratios, "noise": noise}
    report.checks += [
        Check("every reader got every update in order", all(one.is_whole for one in runs), 1, True, must=True),
        Check(
            "stalled clients dropped and gone at TCP level",
            sum(after is not None for after in gone), len(gone), at_least=True, must=True,
        ),
        Check(
            "p99 with stalled clients / without", median(ratios), TARGET_RATIO, at_least=False,
            clear=noise <= TARGET_RATIO,
        ),
    ]  # fmt: skip
