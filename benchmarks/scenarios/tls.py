"""tls: the same with TLS in Relay itself, where it cannot take sockets over."""

import importlib.util
from contextlib import ExitStack

from benchmarks.context import Context, attempt
from benchmarks.measure import Contender, contender
from benchmarks.peers import Relay
from benchmarks.results import Report
from benchmarks.scenarios.forms import COLUMNS, SIZE, measure, parameters
from benchmarks.wire import form

#: Without the takeover a client costs far more, and the pace of the other scenarios would only show that it is too much.
_RATE = 5_000

#: Nor would a burst arrive as it was sent: of more than `RELAY_COALESCE_AFTER` that wait for a client it gets the folded state.
_UPDATES = 50


def run(context: Context) -> Report:
    """Relay alone."""
    settings = parameters(context)
    settings["paced"] = min(settings["paced"], _RATE)
    settings["updates"] = min(settings["updates"], _UPDATES)
    report = Report("tls", "Relay with TLS", settings, (*COLUMNS[:5], "accepted_per_core", *COLUMNS[5:]))
    if importlib.util.find_spec("trustme") is None:
        report.notes.append("left out: trustme is not installed (pip install 'trio-relay[bench]')")
        return report
    with ExitStack() as stack:
        contenders: list[tuple[str, Contender]] = []
        accepted: dict[str, float] = {}
        for case, tls in (("plain", False), ("TLS", True)):
            peer = Relay(f"relay-{case.lower()}", f"Relay, {case}", tls=tls)

            def start(peer: Relay = peer, case: str = case) -> None:
                one = stack.enter_context(contender(peer, context.directory / "tls", settings["clients"]))
                cpu = one.server.cpu()
                one.follow(["bench"] * settings["clients"])
                accepted[case] = settings["clients"] / max(one.server.cpu().since(cpu).ran, 1e-9)
                one.warm_up([form("bench", SIZE)])
                contenders.append((case, one))

            attempt(report, peer, start)
        measure(context, report, contenders)
    for row in report.rows:
        row.figures["accepted_per_core"] = accepted[row.case]
    return report
