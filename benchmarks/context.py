"""What a scenario is given: where it may write, how much it may do, whom it compares, and where its progress is shown."""

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks.feeds import FeedFailed
from benchmarks.load import LoadFailed
from benchmarks.measure import WarmUpFailed
from benchmarks.peers import Peer
from benchmarks.remote import RemoteFailed
from benchmarks.results import Check, Report
from benchmarks.servers import ServerFailed

#: full: for figures that are shown; quick: to see where one stands; tiny: to see that it runs at all.
Size = Literal["full", "quick", "tiny"]

#: What may go wrong with one server without ending the run.
FAILURES = (ServerFailed, LoadFailed, WarmUpFailed, RemoteFailed, FeedFailed)

T = TypeVar("T")


@dataclass
class Context:
    """For one run of the suite.

    peers:    those that are compared, Relay not among them
    chosen:   names of all scenarios of this run: some are measured in one go
    measured: what a scenario has measured for another, by name
    """

    directory: Path
    size: Size
    seed: int
    peers: Sequence[Peer]
    chosen: Sequence[str]
    measured: dict[str, Any] = field(default_factory=dict)

    def pick(self, *, full: T, quick: T, tiny: T) -> T:
        """The value for the size of this run."""
        return {"full": full, "quick": quick, "tiny": tiny}[self.size]

    def random(self, what: str) -> random.Random:
        """A source of random choices that the seed determines, one for each purpose."""
        return random.Random(f"{self.seed}:{what}")

    def able(self, report: Report) -> list[Peer]:
        """The peers that can run here; the report says why the others cannot."""
        able = []
        for peer in self.peers:
            missing = peer.missing()
            if missing is None:
                able.append(peer)
            else:
                report.notes.append(f"{peer.title} was left out: {missing}")
        return able

    @contextmanager
    def progress(self, scenario: str, steps: int) -> Iterator[Callable[[str], None]]:
        """A progress bar; call the value with what begins now. It is drawn rarely: it runs on the load's core."""
        console = Console(stderr=True)
        if not console.is_terminal:
            print(f"{scenario} ...", file=sys.stderr, flush=True)
        columns = (SpinnerColumn(), TextColumn("{task.fields[scenario]}"), BarColumn(), MofNCompleteColumn())
        with Progress(
            *columns, TimeElapsedColumn(), TextColumn("{task.description}"), console=console, transient=True,
            refresh_per_second=2,
        ) as bar:  # fmt: skip
            task = bar.add_task("", total=steps, scenario=scenario)
            began = False

            def begin(what: str) -> None:
                nonlocal began
                bar.update(task, description=what, advance=int(began))
                began = True

            yield begin


def attempt(report: Report, peer: Peer, action: Callable[[], T]) -> T | None:
    """Do something with a server. When that fails the report says so, and None comes back; for Relay it is an error."""
    try:
        return action()
    except FAILURES as error:
        report.notes.append(f"{peer.title} failed: {error}")
        if peer.name.startswith("relay"):
            report.checks.append(Check(f"{peer.title} runs", 0, 1, at_least=True, must=True))
        return None
