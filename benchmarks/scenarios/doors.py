"""doors: the same updates through each of Relay's doors."""

from contextlib import ExitStack

from benchmarks.context import Context, attempt
from benchmarks.doors import EVENTS, POSITIONED, TASKS
from benchmarks.measure import Contender, contender
from benchmarks.peers import Relay
from benchmarks.results import Report
from benchmarks.scenarios.forms import COLUMNS, SIZE, measure, parameters
from benchmarks.wire import form

_DOORS = {"/ws/tasks": TASKS, "/ws/tasks with positions": POSITIONED, "/events": EVENTS}


def run(context: Context) -> Report:
    """Relay alone."""
    settings = parameters(context)
    report = Report("doors", "Relay's doors", settings, COLUMNS)
    with ExitStack() as stack:
        contenders: list[tuple[str, Contender]] = []
        for i, (case, door) in enumerate(_DOORS.items()):
            peer = Relay(f"relay-{i}", f"Relay, {case}", door=door)

            def start(peer: Relay = peer, case: str = case) -> None:
                one = stack.enter_context(contender(peer, context.directory / "doors", settings["clients"]))
                one.follow(["bench"] * settings["clients"])
                one.warm_up([form("bench", SIZE)])
                contenders.append((case, one))

            attempt(report, peer, start)
        measure(context, report, contenders)
    return report
