"""`python -m benchmarks`: run the suite, compare two results, make a report of one."""

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import machine
from benchmarks.compare import compared
from benchmarks.context import Context, Size
from benchmarks.peers import PEERS
from benchmarks.report import as_html, as_png
from benchmarks.results import Results
from benchmarks.scenarios import SCENARIOS
from benchmarks.tables import as_markdown, as_text

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

#: The fastest peers that are easily had: two in Python, one in C.
_FEW = ("picows", "websockets", "nchan")

_RESULTS = Path("benchmarks/results")
_names = {peer.name: peer for peer in PEERS}

ResultFile = Annotated[Path, typer.Argument(exists=True, dir_okay=False)]


@app.callback()
def main() -> None:
    """Relay's fan-out benchmarks; docs/benchmarks.md says what they mean."""


def _chosen(wanted: list[str] | None, known: list[str], what: str) -> list[str]:
    names = [name for part in wanted or [] for name in part.split(",") if name]
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"no {what} {name!r}; there are: {', '.join(known)}")
    return names


@app.command()
def run(
    scenarios: Annotated[
        list[str] | None, typer.Argument(help=f"which, in this order; all when not given: {', '.join(SCENARIOS)}")
    ] = None,
    peers: Annotated[
        list[str] | None,
        typer.Option(
            help=f"whom to compare with: 'all', 'none', or some of {', '.join(_names)}; not given: all, "
            f"with --quick and --tiny {', '.join(_FEW)}"
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="fewer, shorter rounds and smaller crowds")] = False,
    tiny: Annotated[bool, typer.Option("--tiny", help="see that it runs; the figures mean nothing")] = False,
    seed: Annotated[int, typer.Option(help="of all that is chosen at random")] = 1,
    json: Annotated[Path | None, typer.Option(help="the result file", dir_okay=False)] = None,
) -> None:
    """Run scenarios, print their tables, write the result file. Exits with 1 when Relay lost something, whatever the speed."""
    chosen = _chosen(scenarios, list(SCENARIOS), "scenario") or list(SCENARIOS)
    size: Size = "tiny" if tiny else "quick" if quick else "full"
    among = _chosen(peers, [*_names, "all", "none"], "peer") or (["all"] if size == "full" else list(_FEW))
    facts = machine.facts()
    print(f"{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}, Python {facts['python']}, size {size}")
    if facts["cores"] < 2:
        print("note: on one core the server and the load share it; only ratios mean something")
    compared_with = [peer for peer in PEERS if peer.name in among or "all" in among]
    results = Results(facts, size, seed, [])
    path = json or _RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as directory, machine.pinned(machine.LOAD_CORE):
        context = Context(Path(directory), size, seed, compared_with, chosen)
        for name in chosen:
            results.reports.append(SCENARIOS[name](context))
            print(as_text(results.reports[-1]), flush=True)
            results.write(path)
    print(f"{time.monotonic() - began:.0f} s; {path}")
    if any(report.failed for report in results.reports):
        raise typer.Exit(1)


def _read(path: Path) -> Results:
    try:
        return Results.read(path)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@app.command()
def compare(before: ResultFile, after: ResultFile) -> None:
    """Show two result files as ratios, after to before: of each figure that is better higher or lower."""
    print(compared(_read(before), _read(after)))


@app.command()
def report(
    result: ResultFile,
    html: Annotated[Path | None, typer.Option(help="one page with tables and plots", dir_okay=False)] = None,
    png: Annotated[Path | None, typer.Option(help="the plots as a picture", dir_okay=False)] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="print the tables for a document")] = False,
) -> None:
    """Make a report of a result file; its tables as text when nothing else is asked for."""
    results = _read(result)
    if html is not None:
        html.write_text(as_html(results))
    if png is not None:
        png.write_bytes(as_png(results))
    if markdown:
        print(as_markdown(results))
    if html is None and png is None and not markdown:
        for one in results.reports:
            print(as_text(one))


if __name__ == "__main__":
    sys.exit(app())
