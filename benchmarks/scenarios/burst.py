"""burst: many updates of one task at once, to many clients; how fast does the last client have the last one?

All servers are up from the start, each with its own Redis and load generator, and take turns: a neighbour's noise
meets them all, and the ratios are taken within each turn.
"""

from contextlib import ExitStack
from functools import partial

from benchmarks.context import Context, attempt
from benchmarks.measure import Contender, Run, contender, middle_shares
from benchmarks.peers import RELAY, RELAY_DURABLE, Peer
from benchmarks.results import Check, Report, Row, median
from benchmarks.wire import Form, form

SIZE = 128

#: A slow server's bursts are shortened to last about so long, by what a short one took.
_LONGEST = 2.0
_SHORT = 20

TARGET_RATIO_SINGLE = 15.0
TARGET_RATIO = 1.0

#: Peers that join updates in one write, as Relay does; the others write one frame at a time.
JOINING = ("nats", "centrifugo")


def run(context: Context) -> Report:
    """Relay, fed by plain PUBLISH and by its durable script, against the peers."""
    clients = context.pick(full=500, quick=500, tiny=20)
    updates = context.pick(full=400, quick=400, tiny=40)
    rounds = context.pick(full=9, quick=3, tiny=1)
    report = Report(
        "burst",
        "Burst fan-out",
        {"clients": clients, "updates": updates, "bytes": SIZE, "rounds": rounds},
        ("rate", "lowest", "highest", "ratio", "per_core", "server", "load", "load_core"),
    )
    peers = [RELAY, RELAY_DURABLE, *context.able(report)]
    forms = [form("bench", SIZE)]
    runs: dict[str, list[Run]] = {}
    with ExitStack() as stack, context.progress("burst", len(peers) * (1 + rounds)) as begin:
        contenders: list[tuple[Contender, int]] = []

        def start(peer: Peer) -> None:
            with ExitStack() as own:
                one = own.enter_context(contender(peer, context.directory / "burst", clients))
                one.follow(["bench"] * clients)
                one.warm_up(forms)
                contenders.append((one, _length(one, forms, min(_SHORT, updates), updates)))
                stack.push(own.pop_all())

        for peer in peers:
            begin(f"starting {peer.title}")
            attempt(report, peer, partial(start, peer))
        shuffle = context.random("burst").shuffle
        for number in range(rounds):
            shuffle(contenders)
            for one, length in list(contenders):
                begin(f"{one.peer.title}, round {number + 1} of {rounds}")
                done = attempt(report, one.peer, partial(one.burst, forms, length, look_every=0))
                if done is None:
                    contenders.remove((one, length))
                else:
                    runs.setdefault(one.name, []).append(done)
    for peer in peers:
        if runs.get(peer.name):
            report.rows.append(_row(peer, runs[peer.name], runs.get("relay", [])))
            report.data[peer.name] = [one.to_json() for one in runs[peer.name]]
    _judge(report)
    return report


def _length(one: Contender, forms: list[Form], short: int, full: int) -> int:
    """How many updates a burst of this server has. The first bursts look at the order, too."""
    first = one.burst(forms, short, look_every=1)
    affordable = int(_LONGEST * short / first.seconds)
    length = max(short, min(full, affordable))
    one.burst(forms, length, look_every=1)
    return length


def _row(peer: Peer, runs: list[Run], ours: list[Run]) -> Row:
    rates = [one.rate for one in runs]
    figures = {
        "rate": median(rates), "lowest": min(rates), "highest": max(rates),
        "per_core": median([one.per_core for one in runs]),
        **middle_shares(runs),
    }  # fmt: skip
    if not peer.name.startswith("relay") and ours:
        figures["ratio"] = median([mine.rate / theirs.rate for mine, theirs in zip(ours, runs, strict=False)])
    return Row(
        peer.name, "", figures, whole=all(one.received.is_whole for one in runs))  # fmt: skip


def _judge(report: Report) -> None:
    report.must_be_whole("forms of Relay that lost no update")
    clear = all(row.clear for row in report.rows)
    ratios = {row.server: row.figures["ratio"] for row in report.rows if "ratio" in row.figures}
    single = {name: ratio for name, ratio in ratios.items() if name not in JOINING}
    if single:
        best = min(single, key=lambda name: single[name])
        what = f"times the best peer with one frame per write ({best})"
        report.checks.append(Check(what, single[best], TARGET_RATIO_SINGLE, at_least=True, unit="ratio", clear=clear))
    if ratios:
        best = min(ratios, key=lambda name: ratios[name])
        what = f"times the best peer of all ({best})"
        report.checks.append(Check(what, ratios[best], TARGET_RATIO, at_least=True, unit="ratio", clear=clear))
    if any(row.disturbed for row in report.rows):
        report.notes.append(
            "others used the servers' core. That slows long bursts more than short ones, so the ratios flatter the fastest; "
            "compare the deliveries per CPU second"
        )
