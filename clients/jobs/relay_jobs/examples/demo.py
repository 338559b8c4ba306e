"""A relay with its Redis, two workers, and a manager that makes tasks: the relay's page and `relay tail --all` show them.

    python -m relay_jobs.examples.demo [--seconds N] [--url ws://HOST:PORT/ws/tasks] [--plain]

It runs until Ctrl-C or SIGTERM, and leaves nothing behind. A Redis that is configured (``REDIS_URL``, ...) is used; with
``--url``, also a relay that runs already.
"""

import argparse
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from secrets import token_hex
from types import FrameType
from typing import Any
from urllib.request import ProxyHandler, build_opener

from relay_client import NotDelivered, Publisher, environment
from relay_client.errors import BufferFull

from relay_jobs import BacklogFull, TaskManager
from relay_jobs.examples.backups import Backups
from relay_jobs.examples.processes import DemoError, Process, free_port

#: Seconds for the relay to start, between two looks, and between two tasks.
_START, _LOOK, _PAUSE = 30.0, 0.1, 1.0

#: Tasks of one kind that may wait: workers may be slow, or stopped for a try.
_BACKLOG = 30

#: Seconds of silence after which the relay of the demonstration says that a task has stalled: less than a visitor's patience.
_STALL = "6"

_KINDS = ("commission", "pipeline")
_SUBREDDITS = ("golf", "birding", "sourdough", "mechanicalkeyboards", "houseplants")


#: Watches a process, and ends it with the demonstration.
Started = Callable[[Process], Process]


class _Stopped(Exception):
    """Ended by a signal, or because its time is over."""


def start_relay(directory: Path, environ: dict[str, str], started: Started) -> tuple[str, str]:
    """Start a relay; return its URL, and the Redis that it uses."""
    port = free_port(int(environ.get("RELAY_PORT") or 8000))
    log = directory / "relay.log"
    relay = started(Process("the relay", "relay.cli", "serve", "--port", str(port), environ=environ, log=log))
    deadline = time.monotonic() + _START
    opener = build_opener(ProxyHandler({}))
    while time.monotonic() < deadline:
        relay.check()
        # Where the embedded Redis is, only its banner says.
        found = re.search(r"^ +Redis +(\S+)", relay.output(), re.MULTILINE)
        try:
            with opener.open(f"http://127.0.0.1:{port}/readyz", timeout=2.0):
                if found is not None:
                    return f"ws://127.0.0.1:{port}/ws/tasks", found[1]
        except OSError:
            pass  # not up yet
        time.sleep(_LOOK)
    raise DemoError(f"the relay was not ready within {_START:g} s:\n{relay.output()}")


def _is_redis_configured() -> bool:
    return bool(os.environ.get("REDIS_URL") or os.environ.get("REDIS_HOST"))


def _create(manager: TaskManager, number: int) -> None:
    """Create one task: each kind in turn."""
    try:
        if number % 8 == 6:
            manager.create("commission", {}, title="A commission for nobody", task_id=f"commission-{token_hex(3)}")
        elif number % 2 == 0:
            subreddit = random.choice(_SUBREDDITS)
            params: dict[str, Any] = {"subreddit": subreddit, "seconds": 8}
            name, title = f"commission-{token_hex(3)}", f"A commission for r/{subreddit}"
            manager.create("commission", params, title=title, task_id=name, fields={"subreddit": subreddit})
        else:
            records = random.randint(20, 200)
            params = {"records": records, "seconds": 6, "trouble": 0.1}
            name, title = f"pipeline-{token_hex(3)}", f"{records} records"
            manager.create("pipeline", params, title=title, task_id=name)
    except BacklogFull:
        return  # the next one, then
    except NotDelivered as error:
        print(f"demo: no new task: {error}", file=sys.stderr)


def _run(url: str | None, *, seconds: float | None, plain: bool) -> None:
    environ = dict(os.environ)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-demo-")))
        children: list[Process] = []

        def started(child: Process) -> Process:
            children.append(child)
            stack.callback(child.stop)
            return child

        if url is None:
            print("demo: starting a relay ...", file=sys.stderr)
            url, redis_url = start_relay(directory, {"RELAY_TASK_STALL_SECONDS": _STALL, **environ}, started)
            if not _is_redis_configured():
                environ["REDIS_URL"] = redis_url
        redis_url = environment.redis_url(environ)
        for kind in _KINDS:
            arguments = (f"relay_jobs.examples.{kind}:worker", "--name", f"{kind}-worker", "--grace", "0")
            log = directory / f"{kind}.log"
            worker = Process(f"the {kind} worker", "relay_jobs.command", *arguments, environ=environ, log=log)
            started(worker)
        for worker in children[-len(_KINDS) :]:
            stack.callback(worker.request_end)  # both, before either is waited for
        page = re.sub("^ws", "http", url).removesuffix("ws/tasks")
        print(f"demo: open {page} in a browser   logs {directory}   Ctrl-C ends it", file=sys.stderr)
        manager = stack.enter_context(TaskManager(redis_url, max_backlog=_BACKLOG))
        backups = Backups(stack.enter_context(Publisher(redis_url)), time.monotonic())
        view = ("--json",) if plain else ()
        started(Process("relay tail", "relay.cli", "tail", "--all", "--url", url, *view, environ=environ))
        _make_tasks(manager, backups, children, None if seconds is None else time.monotonic() + seconds)


def _make_tasks(manager: TaskManager, backups: Backups, children: Sequence[Process], until: float | None) -> None:
    number, due = 0, 0.0
    while until is None or time.monotonic() < until:
        for child in children:
            child.check()
        with suppress(BufferFull):  # Redis is away
            backups.advance(time.monotonic())
        if time.monotonic() >= due:
            _create(manager, number)
            number, due = number + 1, time.monotonic() + _PAUSE
        time.sleep(_LOOK)


def _stop(number: int, _frame: FrameType | None) -> None:
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)  # it is ending already
    raise _Stopped(signal.Signals(number).name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(prog="python -m relay_jobs.examples.demo", description="All of Relay at work.")
    parser.add_argument("--seconds", type=float, metavar="N", help="end after so long; default: at Ctrl-C")
    parser.add_argument("--url", help="/ws/tasks of a relay that runs already; REDIS_URL must say which Redis it uses")
    parser.add_argument("--plain", action="store_true", help="lines of JSON instead of progress bars")
    options = parser.parse_args(arguments)
    if options.url is not None and not _is_redis_configured():
        parser.error("with --url, REDIS_URL or REDIS_HOST must say which Redis that relay uses")
    if options.seconds is not None and not options.seconds > 0:
        parser.error("--seconds must be over 0")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        _run(options.url, seconds=options.seconds, plain=options.plain)
    except _Stopped:
        pass
    except (DemoError, ValueError) as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
