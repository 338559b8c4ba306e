"""Runs cases of the Autobahn test suite against a server: ``python fuzz.py URL CASE...``.

A case is given by its number, or by the beginning of one and `*`.

The runner is the `kosoku` package: Autobahn's own case files, on a Python that still lives. This is a program of its own
because kosoku changes `sys.path` and the standard library for those files. On standard output: JSON, a list for each case of
its number, the verdict on the exchange, the verdict on the closing handshake, and what it took in milliseconds.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from kosoku import FailureError, run_fuzzingclient
from kosoku.cases import CASES

#: Cases that run side by side. Two keep the fuzzing client busy while the server works, and the other way round.
CONCURRENCY = 2


def mend_compression_cases() -> None:
    """Let 12.* and 13.* accept an echo that is not compressed, as they do under Autobahn's own runner.

    kosoku 0.1.0 hands them bytes, as they expect, only when the echo was compressed; otherwise text as str, and binary
    as str of one character for each byte.
    """

    def with_bytes(on_message: Callable[[Any, bytes, bool], None]) -> Callable[[Any, str | bytes, bool], None]:
        def mended(self: Any, message: str | bytes, binary: bool) -> None:
            if isinstance(message, str):
                message = message.encode("latin-1" if binary else "utf-8")
            on_message(self, message, binary)

        return mended

    cases: Mapping[str, Any] = CASES
    for number, case in cases.items():
        if number.startswith(("12.", "13.")):
            case.onMessage = with_bytes(case.onMessage)


async def main(url: str, cases: list[str]) -> None:
    mend_compression_cases()
    try:
        results = await run_fuzzingclient(url, cases, concurrency=CONCURRENCY)
    except FailureError as failure:
        results = failure.results
        print(failure, file=sys.stderr)
    json.dump([[r.case_id, r.behavior.value, r.behavior_close.value, r.duration] for r in results], sys.stdout)
    sys.stdout.flush()
    # Not by way of the loop's and the interpreter's end: kosoku's threads now and then abort the process there.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
