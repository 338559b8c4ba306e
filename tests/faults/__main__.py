"""The command; see `tests.faults`."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import trio

from tests.faults.rig import break_things, cut_regularly


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--cut-clients", type=float, metavar="SECONDS", help="instead: cut all clients, for so long")
    parser.add_argument("--every", type=float, default=0.0, metavar="SECONDS", help="with --cut-clients")
    parser.add_argument("--for", type=float, default=60.0, metavar="SECONDS", dest="seconds", help="with --cut-clients")
    options = parser.parse_args()
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:7.2f}  {text}", flush=True)

    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        if options.cut_clients is not None:
            every = options.every or 2.5 * options.cut_clients
            ledger = trio.run(cut_regularly, Path(name), options.seed, every, options.cut_clients, options.seconds, say)
        else:
            ledger = trio.run(break_things, Path(name), options.seed, options.faults, say)
    print(f"\nseed {options.seed}, {time.monotonic() - started:.0f} s\n{ledger.table()}")
    return 0 if ledger.is_good else 1


sys.exit(main())
