"""`python -m benchmarks`: run the suite."""

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import machine
from benchmarks.results import Context, Report, write_json
from benchmarks.scenarios import SCENARIOS

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Relay's fan-out benchmarks; docs/benchmarks.md says what they mean."""


@app.command()
def run(
    scenario: Annotated[
        list[str] | None, typer.Option(help=f"which; all when not given: {', '.join(SCENARIOS)}")
    ] = None,
    quick: Annotated[bool, typer.Option(help="fewer and shorter rounds, under two minutes in all")] = False,
    json: Annotated[Path | None, typer.Option(help="write the result to this file, too", dir_okay=False)] = None,
) -> None:
    """Run scenarios and print their tables. Exits with 1 when something was lost or not dropped, whatever the speed."""
    names = scenario or list(SCENARIOS)
    for name in names:
        if name not in SCENARIOS:
            raise typer.BadParameter(f"no scenario {name!r}; there are: {', '.join(SCENARIOS)}")
    started = time.monotonic()
    facts = machine.facts()
    print(f"{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}, Python {facts['python']}")
    if facts["cores"] < 2:
        print("note: on one core the server and the load share it; only ratios mean something")
    reports: list[Report] = []
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as directory, machine.pinned(machine.LOAD_CORE):
        for name in names:
            reports.append(SCENARIOS[name](Context(Path(directory), quick, _say)))
            _say("")
            print(reports[-1].text(), flush=True)
    if json is not None:
        write_json(json, facts, quick, reports)
    _say(f"{time.monotonic() - started:.0f} s\n")
    if any(report.failed for report in reports):
        raise typer.Exit(1)


def _say(progress: str) -> None:
    """Progress on a terminal: one line, overwritten."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{progress}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    app()
