"""relays: two relays behind one Redis, each with half of the clients, against one with all; all on the servers' core."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from benchmarks.context import Context, attempt
from benchmarks.feeds import Durable, Feed, Plain
from benchmarks.load import Load
from benchmarks.measure import Contender
from benchmarks.peers import Relay
from benchmarks.publisher import Publisher
from benchmarks.results import Report
from benchmarks.scenarios.forms import COLUMNS, SIZE, measure, parameters
from benchmarks.servers import Valkey
from benchmarks.wire import form


def run(context: Context) -> Report:
    """Relay alone."""
    settings = parameters(context)
    report = Report("relays", "Two relays behind one Redis", settings, COLUMNS)
    cases: list[tuple[str, int, type[Feed]]] = [
        ("1 relay, PUBLISH", 1, Plain),
        ("2 relays, PUBLISH", 2, Plain),
        ("1 relay, durable", 1, Durable),
        ("2 relays, durable", 2, Durable),
    ]
    with ExitStack() as stack:
        contenders: list[tuple[str, Contender]] = []

        def start(case: str, peer: Relay, count: int) -> None:
            directory = context.directory / "relays" / peer.name
            one = stack.enter_context(_several(peer, directory, count, settings["clients"]))
            one.warm_up([form("bench", SIZE)])
            contenders.append((case, one))

        for i, (case, count, feed) in enumerate(cases[: context.pick(full=4, quick=4, tiny=2)]):
            peer = Relay(f"relay-{i}", f"Relay, {case}", feed=feed)
            attempt(report, peer, partial(start, case, peer, count))
        measure(context, report, contenders)
    return report


@contextmanager
def _several(peer: Relay, directory: Path, count: int, clients: int) -> Iterator[Contender]:
    """So many relays, each with its share of the clients, as one contender."""
    with ExitStack() as stack:
        valkey = stack.enter_context(Valkey(directory / "valkey"))
        relays = [peer.start_one(directory, valkey, stack, name=f"{peer.name}-{i}") for i in range(count)]
        port, first = relays[0]
        server = peer.running(port, first, valkey, ExitStack())
        server.processes = [process for _, process in relays]
        load = stack.enter_context(Load(clients))
        publisher = stack.enter_context(Publisher(server.feed, server.feed_port))
        for i, (port, _) in enumerate(relays):
            share = clients * (i + 1) // count - clients * i // count
            load.connect(server.task, port, ["bench"] * share)
        yield Contender(peer, server, load, publisher)
