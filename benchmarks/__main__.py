"""`python -m benchmarks`: run the suite, compare two results, make a report of one."""

import gc
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import machine
from benchmarks.compare import compared
from benchmarks.peers import PEERS
from benchmarks.plots import draw_all
from benchmarks.results import Results
from benchmarks.scenarios import SCENARIOS
from benchmarks.scenarios.base import Context, Size, Trial
from benchmarks.tables import as_text, rendered

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

#: The fastest peers that are easy to install: two in Python, one in C.
_FEW = ("picows", "websockets", "nchan")

_PEER_NAMES = [peer.name for peer in PEERS]

ResultFile = Annotated[Path, typer.Argument(exists=True, dir_okay=False)]


@app.callback()
def main() -> None:
    """Relay's fan-out benchmarks; docs/benchmarks.md explains the figures."""


def _chosen(wanted: list[str] | None, known: list[str], what: str) -> list[str]:
    names = [name for part in wanted or [] for name in part.split(",") if name]
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"no {what} {name!r}; there are: {', '.join(known)}")
    return names


def _interpreter(option: str) -> tuple[str, str]:
    name, _, command = option.partition("=")
    if (
        not name
        or not command
        or machine.first_line(*shlex.split(command), "-c", "import relay; print('yes')") != "yes"
    ):
        raise typer.BadParameter(f"{option!r}: want NAME=COMMAND, of an interpreter in which Relay is installed")
    return name, command


@app.command()
def scenarios() -> None:
    """List the scenarios with the question that each answers."""
    for scenario in SCENARIOS.values():
        print(f"{scenario.name:10} {scenario.question}")


@app.command()
def run(
    scenarios: Annotated[
        list[str] | None, typer.Argument(help=f"which, in this order; by default all: {', '.join(SCENARIOS)}")
    ] = None,
    peers: Annotated[
        list[str] | None,
        typer.Option(
            help=f"'all', 'none', or some of {', '.join(_PEER_NAMES)}; by default all, with --quick and --tiny "
            f"{', '.join(_FEW)}"
        ),
    ] = None,
    python: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=COMMAND",
            help="run Relay under this interpreter too, which must have it installed; may be repeated",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="fewer, shorter rounds and smaller crowds")] = False,
    tiny: Annotated[bool, typer.Option("--tiny", help="see that it runs; the figures mean nothing")] = False,
    seed: Annotated[int, typer.Option(help="of all random choices")] = 1,
    json: Annotated[Path | None, typer.Option(help="the result file", dir_okay=False)] = None,
) -> None:
    """Run scenarios, print their tables, write the result file. Exits with 1 when Relay lost something, whatever the speed."""
    chosen = _chosen(scenarios, list(SCENARIOS), "scenario") or list(SCENARIOS)
    size: Size = "tiny" if tiny else "quick" if quick else "full"
    among = _chosen(peers, [*_PEER_NAMES, "all", "none"], "peer") or (["all"] if size == "full" else list(_FEW))
    selected = [peer for peer in PEERS if peer.name in among or "all" in among]
    pythons = dict(map(_interpreter, python or []))
    facts = machine.facts()
    facts["pythons"] = {name: machine.first_line(*shlex.split(command), "-VV") for name, command in pythons.items()}
    facts["packages"] |= dict(pair for peer in selected for pair in peer.versions())
    print(f"{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}, Python {facts['python']}, size {size}")
    if facts["cores"] < 2:
        print("note: on one core the server and the load share it; only ratios mean something")
    results = Results(facts, size, seed, [])
    path = json or Path(f"benchmarks/results/{time.strftime('%Y%m%d-%H%M%S')}.json")
    began = time.monotonic()
    gc.freeze()  # a collection of all that was imported would delay the publisher
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as directory, machine.pinned(machine.LOAD_CORE):
        context = Context(Path(directory), size, seed, selected, chosen, pythons)
        for name in chosen:
            results.scenarios.append(Trial(SCENARIOS[name], context).run())
            print(as_text(results.scenarios[-1]), flush=True)
            results.write(path)
    print(f"{time.monotonic() - began:.0f} s; {path}")
    if any(report.failed for report in results.scenarios):
        raise typer.Exit(1)


def _read(path: Path) -> Results:
    try:
        return Results.read(path)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@app.command()
def compare(before: ResultFile, after: ResultFile) -> None:
    """Show two result files as ratios, after to before, of each figure that is better higher or lower."""
    print(compared(_read(before), _read(after)))


@app.command()
def report(
    result: ResultFile,
    html: Annotated[Path | None, typer.Option(help="one page with tables and plots", dir_okay=False)] = None,
    png: Annotated[Path | None, typer.Option(help="the plots as a picture", dir_okay=False)] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="print the tables for a document")] = False,
) -> None:
    """Make a report of a result file; prints its tables as text when nothing else is asked for."""
    results = _read(result)
    if html is not None:
        html.write_text(rendered(results, "report.html"))
    if png is not None:
        png.write_bytes(draw_all(results))
    if markdown:
        print(rendered(results, "report.md"))
    if html is None and png is None and not markdown:
        print("\n".join(map(as_text, results.scenarios)))


if __name__ == "__main__":
    sys.exit(app())
