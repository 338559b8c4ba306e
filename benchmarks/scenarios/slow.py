"""slow: a few clients that stop reading, among many that read. Do the many notice? Are the few gone, and when?

Runs with and without the few alternate on the same server and the same readers; the ratio of the readers' p99 is taken for
each pair of neighbours. Most peers bound nothing: what waits for their stalled clients is in their memory.
"""

import threading
import time
from functools import partial
from types import TracebackType
from typing import NamedTuple, Self

from benchmarks.context import Context, attempt
from benchmarks.measure import Contender, Run, WarmUpFailed, contender, middle_shares
from benchmarks.peers import RELAY, Peer
from benchmarks.results import Check, Report, Row, median
from benchmarks.servers import Running
from benchmarks.wire import Form, form

SIZE = 8192
RATE = 125
STALLED = 5

TARGET_RATIO = 1.2

#: Relay's bound in age is 10 s and its goodbye takes 2 s at most; a stalled client that is there after this is not dropped.
_PATIENCE = 15.0
#: Others are not waited for: the run itself was long enough.
_PATIENCE_PEERS = 1.0


class _Memory:
    """Watches a server's resident memory while the block runs."""

    def __init__(self, server: Running) -> None:
        self._server = server
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.before = self.peak = server.quick_memory()

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            self.peak = max(self.peak, self._server.quick_memory())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()


class _Stalled(NamedTuple):
    """A run with clients that do not read: seconds from its start until each was gone, None for those that stayed."""

    run: Run
    growth: int
    gone_after: list[float | None]


def run(context: Context) -> Report:
    """Relay, several times; each peer once."""
    readers = context.pick(full=200, quick=200, tiny=10)
    updates = context.pick(full=1250, quick=500, tiny=60)
    report = Report(
        "slow",
        "Slow clients among fast ones",
        {"readers": readers, "stalled": STALLED, "updates": updates, "bytes": SIZE, "updates/s": RATE},
        (
            "p99_without",
            "p99",
            "p99_ratio",
            "dropped",
            "gone_after",
            "memory_growth",
            "delivered",
            "server",
            "load_core",
        ),
    )
    peers = [RELAY, *context.able(report)]
    with context.progress("slow", len(peers)) as begin:
        for peer in peers:
            begin(peer.title)
            pairs = context.pick(full=5, quick=2, tiny=1) if peer is RELAY else 1
            row = attempt(report, peer, partial(_measure, context, report, peer, readers, updates, pairs))
            if row is not None:
                report.rows.append(row)
    _judge(context, report)
    return report


def _measure(context: Context, report: Report, peer: Peer, readers: int, updates: int, pairs: int) -> Row:
    forms = [form("bench", SIZE)]
    # In a tiny run too little is sent to pass any bound: nobody is dropped.
    patience = _PATIENCE if peer is RELAY and context.size != "tiny" else _PATIENCE_PEERS
    without: list[Run] = []
    stalled: list[_Stalled] = []
    with contender(peer, context.directory / "slow", readers) as one:
        one.follow(["bench"] * readers)
        one.warm_up(forms)
        if not one.paced(forms, RATE, RATE, look_every=1).keeps_up:
            raise WarmUpFailed(f"it cannot follow {RATE * readers:,} deliveries of {SIZE:,} bytes a second")
        for _ in range(pairs):
            without.append(one.paced(forms, updates, RATE, look_every=1))
            stalled.append(_with_stalled(one, forms, updates, patience))
    ratios = [
        two.run.received.latency.quantile(0.99) / max(alone.received.latency.quantile(0.99), 1e-6)
        for alone, two in zip(without, stalled, strict=True)
    ]
    gone = [after for one in stalled for after in one.gone_after]
    known = [after for after in gone if after is not None]
    p99s = [one.received.latency.quantile(0.99) for one in without]
    figures = {
        "p99_without": median(p99s),
        "p99": median([one.run.received.latency.quantile(0.99) for one in stalled]),
        "p99_ratio": median(ratios),
        "dropped": len(known) / len(gone),
        "memory_growth": float(max(one.growth for one in stalled)),
        "delivered": min(one.run.delivered for one in stalled),
        **middle_shares([one.run for one in stalled]),
    }
    if known:
        figures["gone_after"] = max(known)
    report.data[peer.name] = {
        "without": [one.to_json() for one in without], "with": [one.run.to_json() for one in stalled],
        "ratios": ratios, "noise": max(p99s) / max(min(p99s), 1e-6), "gone_after": gone,
    }  # fmt: skip
    whole = all(one.received.is_whole for one in (*without, *(one.run for one in stalled)))
    whole = whole and all(one.received.readers == readers for one in without)
    return Row(peer.name, "", figures, whole)


def _with_stalled(one: Contender, forms: list[Form], updates: int, patience: float) -> _Stalled:
    ports = one.follow(["bench"] * STALLED, stalled=STALLED).stalled_ports
    began = time.time()
    with _Memory(one.server) as memory:
        done = one.paced(forms, updates, RATE, look_every=1)
        hung_up = one.load.hang_ups(patience)
    gone = [hung_up.get(port) for port in ports]
    one.load.forget_stalled()
    return _Stalled(done, memory.peak - memory.before, [None if at is None else at - began for at in gone])


def _judge(context: Context, report: Report) -> None:
    report.must_be_whole("readers of Relay that got every update, in order, whoever else stalled")
    ours = report.row("relay")
    if ours is None:
        return
    if context.size != "tiny":
        what = "share of stalled clients that Relay dropped"
        report.checks.append(Check(what, ours.figures["dropped"], 1.0, at_least=True, unit="share", must=True))
    noise = report.data["relay"]["noise"]
    report.notes.append(
        f"Relay's runs without stalled clients differ in their p99 by up to {noise:.2f} times, which is the noise"
    )
    report.checks.append(
        Check(
            "p99 of Relay's readers with stalled clients, times that without", ours.figures["p99_ratio"], TARGET_RATIO,
            at_least=False, unit="ratio", clear=noise <= TARGET_RATIO,
        )
    )  # fmt: skip
