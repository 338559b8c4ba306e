"""A scenario as a row of data, and what all of them share: the servers, their failures, their turns, and the verdicts."""

import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks.load import LoadFailed
from benchmarks.measure import Run, Testbed, WarmUpFailed, all_complete, medians, testbed
from benchmarks.peers.base import Peer, under_each
from benchmarks.publisher import PublishFailed
from benchmarks.results import METRICS, Check, Report, Row
from benchmarks.servers import ServerFailed
from benchmarks.wire import Update, make_update

#: full: for figures that are published; quick: to see where one stands; tiny: to see that it runs at all.
Size = Literal["full", "quick", "tiny"]

#: These may happen to one server without ending the run.
FAILURES = (ServerFailed, LoadFailed, WarmUpFailed, PublishFailed, ConnectionError)

T = TypeVar("T")


class Sizes(NamedTuple):
    """A parameter that depends on the size of the run."""

    full: Any
    quick: Any
    tiny: Any


@dataclass(frozen=True)
class Target:
    """A target for a figure of Relay.

    Args:
        text: What it is about.
        figure: Of the row of ``server`` in ``case``; with ``versus`` the ratio to the best of these peers instead.
        limit: The target.
        at_least: Whether the figure should be at least the limit; at most otherwise.
        must: Whether it is about correctness; not checked with --tiny, where too little is sent to pass any bound.
        full_only: Whether shorter runs have too few clients for a verdict.
    """

    text: str
    figure: str
    limit: float
    at_least: bool = True
    server: str = "relay"
    case: str | None = None
    versus: Callable[[Peer], bool] | None = None
    must: bool = False
    full_only: bool = False


@dataclass(frozen=True)
class Scenario:
    """A question, and how it is answered.

    Args:
        name: On the command line.
        title: For people.
        question: In a sentence.
        parameters: All that is chosen; shown with the results.
        columns: The figures that tables show.
        measure: Adds rows to the report of a trial.
        relays: Variants of Relay that take part.
        has_peers: Whether peers take part as well.
        others: Peers of this scenario only, which take part instead of those. `--peers none` leaves them out.
        ratio: The figure by which each peer is compared with the first of ``relays``.
        complete: The check that nothing was lost, in words.
        targets: Further checks.
    """

    name: str
    title: str
    question: str
    parameters: Mapping[str, Any]
    columns: tuple[str, ...]
    measure: Callable[["Trial"], None]
    relays: tuple[Peer, ...]
    has_peers: bool = True
    others: tuple[Peer, ...] = ()
    ratio: str = ""
    complete: str = "runs in which Relay lost no update"
    targets: tuple[Target, ...] = ()


@dataclass
class Context:
    """One run of the suite: where it may write, its size and seed, the peers, the names of all scenarios that were chosen, the
    commands of further Python interpreters that run Relay, by name, and what a scenario has measured for others."""

    directory: Path
    size: Size
    seed: int
    peers: Sequence[Peer]
    chosen: Sequence[str]
    pythons: Mapping[str, str] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)


class Trial:
    """One scenario in one run: ``p`` has its parameters for the size of the run."""

    def __init__(self, scenario: Scenario, context: Context) -> None:
        self.scenario = scenario
        self.context = context
        self.directory = context.directory / scenario.name
        self.p = {name: self.pick(value) for name, value in scenario.parameters.items()}
        self.report = Report(scenario.name, scenario.title, self.p, scenario.columns)
        self.peers: list[Peer] = []
        peers = (scenario.others if context.peers else ()) if scenario.others else context.peers
        relays = [each for relay in scenario.relays for each in under_each(relay, context.pythons)]
        for peer in (*relays, *(peers if scenario.has_peers else ())):
            if missing := peer.missing():
                self.report.notes.append(f"{peer.title} was left out: {missing}")
            else:
                self.peers.append(peer)

    def pick(self, value: Any) -> Any:
        """Return the value for the size of this run."""
        return getattr(value, self.context.size) if isinstance(value, Sizes) else value

    def random(self, purpose: str = "") -> random.Random:
        """Return a source of random choices that the seed determines, one for each purpose."""
        return random.Random(f"{self.context.seed}:{self.scenario.name}{purpose}")

    def updates(self, *tasks: str | None) -> list[Update]:
        """Return an update of each task in the size of this scenario."""
        return [make_update(task, self.p["bytes"]) for task in tasks]

    def run(self) -> Report:
        """Measure and check. The progress bar is only drawn between measurements: it runs on the load's core."""
        console = Console(stderr=True)
        if not console.is_terminal:
            print(f"{self.scenario.name} ...", file=sys.stderr, flush=True)
        columns = (SpinnerColumn(), TextColumn(self.scenario.name), BarColumn(), MofNCompleteColumn())
        with Progress(
            *columns, TimeElapsedColumn(), TextColumn("{task.description}"), console=console, transient=True,
            auto_refresh=False,
        ) as self._bar:  # fmt: skip
            self._bar.add_task("", total=0)
            self.scenario.measure(self)
        self._check()
        return self.report

    def expect(self, steps: int) -> None:
        """Announce so many further steps."""
        task = self._bar.tasks[0]
        self._bar.update(task.id, total=(task.total or 0) + steps)

    def attempt(self, peer: Peer, what: str, action: Callable[[], T]) -> T | None:
        """Do one step with a server. When that fails the report says so and None is returned; for Relay it is an error."""
        self._bar.update(self._bar.tasks[0].id, description=f"{peer.title}{what}", refresh=True)
        try:
            return action()
        except FAILURES as error:
            self.report.notes.append(f"{peer.title} failed: {error}")
            if peer.is_relay:
                self.report.checks.append(Check(f"{peer.title} runs", 0, 1, must=True))
            return None
        finally:
            self._bar.advance(self._bar.tasks[0].id)

    @contextmanager
    def all_running(self) -> Iterator[list[Testbed]]:
        """Start all servers; ``clients`` follow the task ``bench`` on each, and have received it once."""
        beds: list[Testbed] = []

        def start(peer: Peer, stack: ExitStack) -> None:
            with ExitStack() as own:
                bed = own.enter_context(testbed(peer, self.directory, self.p["clients"]))
                cpu = bed.server.cpu()
                bed.follow(["bench"] * self.p["clients"])
                bed.accepted_per_core = self.p["clients"] / max(bed.server.cpu().since(cpu).ran, 1e-9)
                bed.warm_up(self.updates("bench"))
                stack.push(own.pop_all())
                beds.append(bed)

        self.expect(len(self.peers))
        with ExitStack() as stack:
            for peer in self.peers:
                self.attempt(peer, " starts", partial(start, peer, stack))
            yield beds

    def in_turns(
        self, beds: list[Testbed], rounds: int, what: str, action: Callable[[Testbed], T]
    ) -> dict[str, list[T]]:
        """Repeat something with all servers, in another order each time; those that fail are removed from ``beds``.

        A neighbour's noise meets them all, and ratios can be taken within each turn.
        """
        shuffle = self.random(what).shuffle
        results: dict[str, list[T]] = {}
        self.expect(rounds * len(beds))
        for _ in range(rounds):
            order = list(beds)
            shuffle(order)
            for bed in order:
                done = self.attempt(bed.peer, what, partial(action, bed))
                if done is None:
                    beds.remove(bed)
                else:
                    results.setdefault(bed.peer.name, []).append(done)
        return {peer.name: results[peer.name] for peer in self.peers if peer.name in results}

    def add(self, server: str, figures: dict[str, float], runs: Sequence[Run], *, case: str = "", **more: Any) -> Row:
        """Add a row. Further figures are the medians of ``runs``, all of which must be complete; the result file has them."""
        row = Row(server, case, medians(runs) | figures, all_complete(runs))
        self.report.rows.append(row)
        self.report.data.setdefault(server, {})[case] = {"runs": runs, **more}
        return row

    def compared_with(self, server: str) -> str | None:
        """Return the server with which another is compared; None if it is compared with none.

        A peer is compared with Relay, and Relay under another interpreter with itself under this one.
        """
        bases = {peer.name: peer.base for peer in self.peers if peer.base}
        if server in bases:
            return bases[server]
        return None if server.startswith("relay") else self.scenario.relays[0].name

    def _check(self) -> None:
        report = self.report
        self._compare()
        # Past its last rung of a ladder a server is expected to coalesce or to drop: that is no loss.
        ours = [row.complete for row in report.rows if row.server.startswith("relay") and not row.remark]
        report.checks.append(Check(self.scenario.complete, sum(ours), len(ours), must=True))
        for target in self.scenario.targets:
            row = report.row(target.server, target.case)
            best = self._best(target) if target.versus else row
            if row is None or best is None or target.figure not in best.figures:
                continue
            text = f"{target.text} ({best.server})" if target.versus else target.text
            clear = row.clear and best.clear and (self.context.size == "full" or not target.full_only)
            if self.context.size != "tiny" or not target.must:
                unit = METRICS[target.figure].unit
                report.checks.append(Check(
                    text, best.figures[target.figure], target.limit, target.at_least, unit, target.must, clear
                ))  # fmt: skip

    def _best(self, target: Target) -> Row | None:
        """Return the row of the best peer that a target compares with, in the same case."""
        versus = {peer.name for peer in self.peers if target.versus and target.versus(peer) and not peer.base}
        case = target.case or (self.report.rows[0].case if self.report.rows else "")
        rows = [row for row in self.report.rows if row.server in versus and row.case == case and not row.remark]
        return min((row for row in rows if "ratio" in row.figures), key=lambda row: row.figures["ratio"], default=None)

    def _compare(self) -> None:
        """Say for each peer how many times better Relay is in the same case: 2 is twice the rate, or half the time."""
        figure = self.scenario.ratio
        for row in self.report.rows if figure else ():
            ours = self.compared_with(row.server)
            base = self.report.row(ours, row.case) if ours else None
            if base is not None:
                mine, theirs = base.figures.get(figure), row.figures.get(figure)
                if mine and theirs:
                    row.figures["ratio"] = theirs / mine if METRICS[figure].better == "lower" else mine / theirs


def one_by_one(measure: Callable[[Trial, Peer], None]) -> Callable[[Trial], None]:
    """Return a measurement that takes one server after the other; ``measure`` adds its rows."""

    def run(trial: Trial) -> None:
        trial.expect(len(trial.peers))
        for peer in trial.peers:
            trial.attempt(peer, "", partial(measure, trial, peer))
        order = {row.case: i for i, row in reversed(list(enumerate(trial.report.rows)))}
        trial.report.rows.sort(key=lambda row: order[row.case])

    return run
