"""Mutate the input of each parser many times, and print what came of it; `tests.fuzz` describes the run."""

import argparse
import logging
import sys

import structlog

from tests.fuzz import PARSERS, fuzz
from tests.fuzz.centrifuge import SESSIONS
from tests.fuzz.sessions import fuzz_sessions


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="mutations for each parser")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("names", nargs="*", metavar="PARSER", help="only these")
    options = parser.parse_args()
    for name, each in PARSERS.items():
        if not options.names or name in options.names:
            read, longest = fuzz(each, options.count, options.seed)
            print(
                f"{name:20} {options.count:9,} mutations, {read:9,} read, the longest took {longest * 1000:.1f} ms",
                flush=True,
            )
    # Nearly all clients are dropped, and the log would say of each why.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    for name, seeds in SESSIONS.items():
        if not options.names or name in options.names:
            closings = fuzz_sessions(seeds, options.count, options.seed)
            ends = ", ".join(f"{count:,} {close.label}" for close, count in closings.most_common())
            print(f"{name:20} {options.count:9,} mutations, sessions ended: {ends}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
