"""large: few clients, large updates. What counts is bytes, and whether one large message makes others wait."""

from functools import partial

from benchmarks.context import Context, attempt
from benchmarks.measure import contender
from benchmarks.peers import RELAY, RELAY_DURABLE, Peer
from benchmarks.results import Report, Row
from benchmarks.wire import form

CLIENTS = 50

#: Bytes a second to all clients together.
BYTES_A_SECOND = 100_000_000

#: Below Relay's default for the longest update, 262,144.
SIZES = (4_096, 65_536, 200_000)


def run(context: Context) -> Report:
    """Relay against the peers."""
    sizes: tuple[int, ...] = context.pick(full=SIZES, quick=(65_536,), tiny=(65_536,))
    clients = context.pick(full=CLIENTS, quick=CLIENTS, tiny=4)
    goal = context.pick(full=BYTES_A_SECOND, quick=BYTES_A_SECOND, tiny=5_000_000)
    seconds = context.pick(full=4.0, quick=2.0, tiny=0.5)
    report = Report(
        "large",
        "Large updates",
        {"clients": clients, "bytes": sizes, "bytes/s": goal, "seconds": seconds},
        ("bytes_rate", "p50", "p99", "max", "ratio", "delivered", "server", "load_core"),
    )
    peers = [RELAY, RELAY_DURABLE, *context.able(report)]
    with context.progress("large", len(peers)) as begin:
        for peer in peers:
            begin(peer.title)
            rows = attempt(report, peer, partial(_measure, context, report, peer, sizes, clients, goal, seconds))
            report.rows += rows or []
    report.rows.sort(key=lambda row: int(row.case.split()[0].replace(",", "")))
    report.compare("p99")
    report.must_be_whole("runs in which Relay lost no update")
    return report


def _measure(
    context: Context, report: Report, peer: Peer, sizes: tuple[int, ...], clients: int, goal: int, seconds: float
) -> list[Row]:
    rows = []
    filler = bytes(context.random("large").choices(b"abcdefghijklmnopqrstuvwxyz0123456789", k=997))
    with contender(peer, context.directory / "large", clients) as one:
        one.follow(["bench"] * clients)
        for size in sizes:
            forms = [form("bench", size, filler)]
            one.warm_up(forms)
            rate = goal / clients / size
            done = one.paced(forms, max(5, round(rate * seconds)), rate, look_every=1)
            figures = {
                "bytes_rate": done.rate * size, "delivered": done.delivered, **done.latencies(), **done.shares(),
            }  # fmt: skip
            case = f"{size:,} bytes"
            rows.append(Row(peer.name, case, figures, done.received.is_whole))
            report.data.setdefault(case, {})[peer.name] = done.to_json()
    return rows
