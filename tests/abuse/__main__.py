"""Abuse a real relay, and print what a bystander notices; `tests.abuse` describes the run."""

import argparse
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.abuse import MAX_MEMORY, MAX_P99
from tests.abuse.abuses import ABUSES, run_abuse
from tests.abuse.bystander import Report, watch
from tests.abuse.target import Abuse, Target
from tests.harness import RedisServer, RelayServer

_SPAWN = multiprocessing.get_context("spawn")


def _run(abuse: Abuse, settings: dict[str, Any], seconds: float, directory: Path) -> tuple[Report, int, str]:
    """Abuse a fresh relay; returns what the bystander saw, the relay's largest memory, and what was done."""
    with ExitStack() as stack:
        for name in ("redis", "relay"):
            (directory / name).mkdir(parents=True)
        server = stack.enter_context(RedisServer(directory / "redis", "--save", ""))
        cpu = 0 if (os.cpu_count() or 1) > 1 else None
        relay = stack.enter_context(RelayServer(directory / "relay", server.url, "serve", cpu=cpu, **settings))
        ours, theirs = _SPAWN.Pipe()
        bystander = _SPAWN.Process(target=watch, args=(relay.url, server.port, "bystander", theirs))
        bystander.start()
        assert ours.recv() == "ready"
        peak = 0
        stop = threading.Event()

        def note_memory() -> None:
            nonlocal peak
            while not stop.wait(0.05):
                peak = max(peak, relay.memory())

        memory = threading.Thread(target=note_memory)
        memory.start()
        done, outcome = _SPAWN.Pipe()
        target = Target(relay.port, server.port, time.monotonic() + seconds + 2.0)
        abuser = _SPAWN.Process(target=run_abuse, args=(abuse, target, outcome))
        abuser.start()
        text = done.recv() if done.poll(seconds + 15) else "did not end"
        abuser.kill()
        abuser.join()
        ours.send("stop")
        report: Report = ours.recv()
        bystander.join()
        stop.set()
        memory.join()
        return report, peak, text


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.abuse", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of each abuse")
    parser.add_argument("names", nargs="*", metavar="ABUSE", help="only these")
    options = parser.parse_args()
    print(f"{'abuse':24} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8} {'missed':>7} {'MB':>5}  done")
    failed = False
    with tempfile.TemporaryDirectory(prefix="abuse-") as name:
        for number, (abuse, settings) in enumerate(ABUSES):
            if options.names and abuse.__name__ not in options.names:
                continue
            report, memory, text = _run(abuse, settings, options.seconds, Path(name) / str(number))
            missed = report.published - report.received
            is_bad = report.p99 >= MAX_P99 or missed > 0 or memory > MAX_MEMORY or bool(report.ended)
            failed |= is_bad
            label = abuse.__name__ + (" (ASGI)" if settings.get("hijack_sockets") is False else "")
            print(
                f"{label:24} {report.p50:8.1f} {report.p99:8.1f} {report.longest:8.1f} {missed:7d} {memory >> 20:5d}  "
                f"{text}{'  FAILED ' + report.ended if is_bad else ''}",
                flush=True,
            )
    print(
        f"\nfailed: p99 of {MAX_P99:g} ms or more, updates missed, or more than {MAX_MEMORY >> 20} MB" if failed else ""
    )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
