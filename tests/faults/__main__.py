"""Inject faults into real relays and count lost updates; `tests.faults` describes the run."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import trio

from tests.faults.runs import run_faults, run_periodic_cuts


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument(
        "--cut-clients",
        type=float,
        metavar="SECONDS",
        help="instead of other faults: cut off all clients, for this long each time",
    )
    parser.add_argument(
        "--every", type=float, default=0.0, metavar="SECONDS", help="with --cut-clients: time from one cut to the next"
    )
    parser.add_argument(
        "--for",
        type=float,
        default=60.0,
        metavar="SECONDS",
        dest="seconds",
        help="with --cut-clients: duration of the run",
    )
    options = parser.parse_args()
    started = time.monotonic()

    def log(text: str) -> None:
        print(f"{time.monotonic() - started:7.2f}  {text}", flush=True)

    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        if options.cut_clients is not None:
            every = options.every or 2.5 * options.cut_clients
            report = trio.run(
                run_periodic_cuts, Path(name), options.seed, every, options.cut_clients, options.seconds, log
            )
        else:
            report = trio.run(run_faults, Path(name), options.seed, options.faults, log)
    print(f"\nseed {options.seed}, {time.monotonic() - started:.0f} s\n{report.table()}")
    return 0 if report.passed else 1


sys.exit(main())
