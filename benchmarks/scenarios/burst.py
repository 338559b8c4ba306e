"""burst: many updates of one task at once, to many clients; how fast does the last client have the last one?

All servers are up from the start, each with its own Redis and load generator, and take turns: a neighbour's noise
meets them all, and the ratios are taken within each turn.
"""

import time
from contextlib import ExitStack
from typing import NamedTuple

from benchmarks.load import SATURATED, Load
from benchmarks.publisher import Publisher
from benchmarks.results import Check, Context, Report, median, number, percent
from benchmarks.servers import PEERS, Server, Valkey, start_relay
from benchmarks.wire import Form, task_form

CLIENTS = 500
UPDATES = 400
SIZE = 128
ROUNDS, QUICK_ROUNDS = 15, 4
WARM_UP, QUICK_WARM_UP = 2, 1

#: A server that waited for its core for more than this share of a round was measured on a machine that was too busy.
DISTURBED = 0.1

TARGET_RATE = 1_000_000
TARGET_RATIO = 5.0

_GREETING = '{"type":"subscribe","task_id":"bench"}'
_TIMEOUT = 60.0


class Round(NamedTuple):
    """One burst. Shares are of the time from the publish to the last arrival."""

    rate: float
    server_cpu: float
    server_share: float
    server_waited: float
    load_share: float
    whole: bool


class Contender:
    """A server with its own Redis, load and publisher, and its rounds so far."""

    def __init__(self, server: Server, load: Load, publisher: Publisher) -> None:
        self.server = server
        self.load = load
        self.publisher = publisher
        self.rounds: list[Round] = []

    def burst(self, form: Form, look: bool) -> Round:
        """One round; `look`: check the order of all updates, which costs the load generator more."""
        self.load.arm(UPDATES, form if look else None)
        before = self.server.cpu()
        published = self.publisher.burst(form, UPDATES)
        received = self.load.collect(_TIMEOUT)
        cpu = self.server.cpu().since(before)
        seconds = max(received.last - published, 1) / 1e9
        deliveries = received.frames
        return Round(
            deliveries / seconds, cpu.ran / max(deliveries, 1) * 1e6, cpu.ran / seconds, cpu.waited / seconds,
            received.cpu / seconds, received.is_whole,
        )  # fmt: skip

    def middle(self, field: str) -> float:
        """The median of one figure."""
        return median([getattr(one, field) for one in self.rounds])


def run(context: Context) -> Report:
    """Relay against the peers."""
    rounds = QUICK_ROUNDS if context.quick else ROUNDS
    form = task_form("bench", SIZE)
    report = Report(
        "burst",
        {"clients": CLIENTS, "updates": UPDATES, "bytes": SIZE, "rounds": rounds},
        ("server", "deliveries/s", "lowest", "highest", "relay/peer", "CPU s/million", "server CPU", "load CPU"),
    )
    whole = True
    with ExitStack() as stack:
        contenders: list[Contender] = []
        for peer in (None, *PEERS):
            name = peer.name if peer else "relay"
            if peer and peer.missing:
                report.notes.append(f"{name} was left out: {', '.join(peer.missing)} not installed")
                continue
            context.say(f"burst: starting {name}")
            directory = context.directory / f"burst-{name}"
            valkey = stack.enter_context(Valkey(directory))
            server = peer.start(directory, valkey) if peer else start_relay(directory, valkey)
            stack.enter_context(server)
            load = stack.enter_context(Load())
            load.connect(server.port, CLIENTS, _GREETING)
            contender = Contender(server, load, stack.enter_context(Publisher(valkey.port)))
            contenders.append(contender)
            for _ in range(QUICK_WARM_UP if context.quick else WARM_UP):
                whole &= contender.burst(form, look=True).whole
        for number_of_round in range(rounds):
            context.say(f"burst: round {number_of_round + 1} of {rounds}")
            for contender in contenders:
                time.sleep(0.1)
                contender.rounds.append(contender.burst(form, look=False))
    whole &= all(one.whole for contender in contenders for one in contender.rounds)
    _summarize(report, contenders, whole)
    return report


def _summarize(report: Report, contenders: list[Contender], whole: bool) -> None:
    relay = contenders[0]
    waits = {contender.server.name: contender.middle("server_waited") for contender in contenders}
    clear = max(waits.values()) <= DISTURBED
    report.checks.append(Check("every client got every update, once", whole, 1, at_least=True, must=True))
    report.checks.append(Check("deliveries/s of relay", relay.middle("rate"), TARGET_RATE, at_least=True, clear=clear))
    for contender in contenders:
        name = contender.server.name
        rates = [one.rate for one in contender.rounds]
        pairs = zip(relay.rounds, contender.rounds, strict=True)
        ratio = median([ours.rate / theirs.rate for ours, theirs in pairs])
        load_share = contender.middle("load_share")
        report.rows.append(
            [
                name, number(median(rates)), number(min(rates)), number(max(rates)), f"{ratio:.1f}",
                f"{contender.middle('server_cpu'):.3f}", percent(contender.middle("server_share")), percent(load_share),
            ]
        )  # fmt: skip
        report.data[name] = {"ratio": ratio, "rounds": [one._asdict() for one in contender.rounds]}
        if contender is not relay:
            report.checks.append(Check(f"relay/{name}", ratio, TARGET_RATIO, at_least=True, clear=clear))
        if load_share > SATURATED:
            report.notes.append(f"the load generator was saturated by {name}: that server may be faster than shown")
    if not clear:
        shares = ", ".join(f"{name} {wait:.0%}" for name, wait in waits.items())
        report.notes.append(
            f"others used the servers' core, which they waited for: {shares} of the time. That slows long bursts more than "
            "short ones, so the ratios flatter the fastest; compare the CPU seconds"
        )
