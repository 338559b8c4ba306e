"""paced: updates of one task on a schedule, at a ladder of rates, up to where each server can follow no more.

All servers are up from the start and take turns on each rung. A server leaves the ladder when it lost something, came to less
than nine tenths of the rate, or took a second for the slowest hundredth.
"""

from contextlib import ExitStack
from functools import partial

from benchmarks.context import Context, attempt
from benchmarks.measure import Contender, Run, contender, middle_quantiles, middle_shares
from benchmarks.peers import RELAY, RELAY_DURABLE, Peer
from benchmarks.results import Check, Report, Row, median, shown
from benchmarks.wire import form

SIZE = 128

#: Deliveries a second.
LADDER = (
    5_000,
    10_000,
    25_000,
    50_000,
    75_000,
    100_000,
    150_000,
    200_000,
    300_000,
    400_000,
    600_000,
    800_000,
    1_000_000,
)
NAMED = 50_000

_SLOWEST = 1.0
_ENOUGH = 0.9

#: So many deliveries a second are looked at, the rest is counted.
_LOOKED_AT = 20_000

TARGET = 0.9


def run(context: Context) -> Report:
    """Relay against the peers."""
    clients = context.pick(full=500, quick=500, tiny=20)
    seconds = context.pick(full=4.0, quick=2.0, tiny=0.5)
    ladder: tuple[int, ...] = context.pick(full=LADDER, quick=(10_000, NAMED, 200_000), tiny=(1_000, 2_000))
    rounds = context.pick(full=7, quick=3, tiny=1)
    report = Report(
        "paced",
        "Paced fan-out",
        {"clients": clients, "bytes": SIZE, "seconds": seconds},
        ("rate", "p50", "p99", "p999", "max", "ratio", "per_core", "server", "load", "load_core"),
    )
    peers = [RELAY, RELAY_DURABLE, *context.able(report)]
    order = [peer.name for peer in peers]
    with ExitStack() as stack, context.progress("paced", len(peers) * (1 + len(ladder))) as begin:
        left: list[Contender] = []

        def start(peer: Peer) -> None:
            with ExitStack() as own:
                one = own.enter_context(contender(peer, context.directory / "paced", clients))
                one.follow(["bench"] * clients)
                one.warm_up([form("bench", SIZE)])
                one.paced([form("bench", SIZE)], 20, 100, look_every=1)
                left.append(one)
                stack.push(own.pop_all())

        for peer in peers:
            begin(f"starting {peer.title}")
            attempt(report, peer, partial(start, peer))
        shuffle = context.random("paced").shuffle
        for rate in ladder:
            runs: dict[str, list[Run]] = {}
            for _ in range(rounds if rate == NAMED else 1):
                shuffle(left)
                for one in list(left):
                    begin(f"{one.peer.title} at {rate:,}/s")
                    done = attempt(report, one.peer, partial(_rung, one, rate, clients, seconds))
                    if done is None:
                        left.remove(one)
                    else:
                        runs.setdefault(one.name, []).append(done)
            for one in sorted(left, key=lambda one: order.index(one.name)):
                row = _row(one.peer, rate, runs[one.name])
                report.rows.append(row)
                report.data.setdefault(one.name, {})[str(rate)] = [done.to_json() for done in runs[one.name]]
                if not row.whole or row.figures["rate"] < _ENOUGH * rate or row.figures["p99"] > _SLOWEST:
                    row.remark = "can follow no more"
                    left.remove(one)
    report.compare("p99")
    _judge(report)
    return report


def _rung(one: Contender, rate: int, clients: int, seconds: float) -> Run:
    updates_a_second = rate / clients
    updates = max(10, round(updates_a_second * seconds))
    return one.paced(
        [form("bench", SIZE)], updates, updates_a_second, look_every=max(1, round(rate / _LOOKED_AT)), quiet=1.0
    )


def _row(peer: Peer, rate: int, runs: list[Run]) -> Row:
    figures = {
        "rate": median([one.rate for one in runs]), "target": float(rate), **middle_quantiles(runs),
        "per_core": median([one.per_core for one in runs]),
        **middle_shares(runs),
    }  # fmt: skip
    figures.setdefault("p99", _SLOWEST * 10)
    return Row(
        peer.name, f"{rate:,}/s", figures, whole=all(one.received.is_whole for one in runs),
    )  # fmt: skip


def _judge(report: Report) -> None:
    # Past its last rung a server is expected to fold or to drop: that is no loss.
    carried = [row for row in report.rows if row.server.startswith("relay") and not row.remark]
    report.checks.append(
        Check("rungs that Relay carried without loss", sum(row.whole for row in carried), len(carried), True, must=True)
    )
    ours = report.row("relay", f"{NAMED:,}/s")
    theirs = [
        row for row in report.rows
        if row.case == f"{NAMED:,}/s" and not row.server.startswith("relay") and not row.remark
    ]  # fmt: skip
    if ours is not None and theirs:
        best = min(theirs, key=lambda row: row.figures["p99"])
        what = (
            f"p99 at {NAMED:,}/s, times that of the best peer ({best.server}, {shown(best.figures['p99'], 'seconds')})"
        )
        clear = ours.clear and best.clear
        measured = ours.figures["p99"] / best.figures["p99"]
        report.checks.append(Check(what, measured, TARGET, at_least=False, unit="ratio", clear=clear))
    for server in dict.fromkeys(row.server for row in report.rows):
        rungs = [row for row in report.rows if row.server == server and not row.remark]
        if rungs:
            report.data.setdefault("highest", {})[server] = rungs[-1].figures["target"]
