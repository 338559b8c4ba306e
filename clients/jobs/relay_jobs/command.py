"""The command `relay-worker`: runs a worker until SIGTERM or Ctrl-C.

    relay-worker mymodule:worker --concurrency 20

The first signal drains it: no new tasks, ``--grace`` seconds for those that run, then they are handed over. A second signal
ends it at once. Exit status: 0 drained, 1 ended by an error, 2 wrong arguments or settings, 128 + the signal's number at a
second signal.
"""

import argparse
import asyncio
import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from relay_client import environment
from relay_client.errors import NotDelivered
from relay_wire import redis_urls

from relay_jobs import __version__
from relay_jobs.settings import WorkerSettings
from relay_jobs.worker import Worker

_log = logging.getLogger("relay_jobs.worker")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

#: Seconds that a drain may take beyond its grace: for handing over, and for handlers that ignore their cancellation.
_BEYOND_GRACE = 10.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="relay-worker", description="Run the tasks that a TaskManager creates.")
    parser.add_argument("worker", metavar="MODULE:WORKER", help="where the Worker is, for instance mymodule:worker")
    parser.add_argument("--concurrency", type=int, metavar="N", help="tasks at once; default: the worker's, or 10")
    parser.add_argument("--redis-url", dest="url", metavar="URL", help="default: REDIS_URL, REDIS_HOST, ...")
    parser.add_argument("--name", help="for logs, and for the consumer in Redis; default: host and process")
    parser.add_argument(
        "--grace", type=float, metavar="SECONDS", help="for running tasks after SIGTERM; default: the worker's, or 20"
    )
    parser.add_argument(
        "--lease",
        type=float,
        metavar="SECONDS",
        help="silence after which other workers take its tasks over; default: the worker's, or 30",
    )
    parser.add_argument("--log-level", default="INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR"))
    parser.add_argument("--version", action="version", version=f"relay-worker {__version__}")
    return parser


class WorkerNotFound(ValueError):
    """There is no worker in the given place."""


def load(place: str) -> Worker:
    """Return the worker at ``module:name``. Raises WorkerNotFound that says what is wrong, or what the module itself raises."""
    module_name, separator, name = place.partition(":")
    if not separator or not module_name or not name:
        raise WorkerNotFound(f"{place!r} is not of the form MODULE:WORKER, for instance mymodule:worker")
    directory = str(Path.cwd())
    if directory not in sys.path:
        sys.path.insert(0, directory)  # as `python -m` has it
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise WorkerNotFound(f"there is no module {module_name!r} in {directory} or on PYTHONPATH") from None
    worker = getattr(module, name, None)
    if worker is None:
        found = [each for each, value in vars(module).items() if isinstance(value, Worker)]
        hint = f": it has {', '.join(found)}" if found else ", and no Worker of another name"
        raise WorkerNotFound(f"module {module_name!r} has no {name!r}{hint}")
    if not isinstance(worker, Worker):
        raise WorkerNotFound(f"{place} is {type(worker).__name__}, not a relay_jobs.Worker")
    return worker


class BadSettings(ValueError):
    """The worker cannot run with these arguments, or this environment."""


def _checked(worker: Worker, given: dict[str, Any]) -> WorkerSettings:
    if not worker.handlers:
        raise BadSettings("this worker has no handlers: register some with @worker.task(kind)")
    try:
        settings = replace(worker.settings, **given)
        redis_urls.parse(settings.redis_url)
        environment.stall_seconds()
        environment.retention()
        environment.max_update_bytes()
    except ValueError as error:
        raise BadSettings(str(error)) from None
    return settings


async def _run(worker: Worker, settings: dict[str, Any], grace: float) -> None:
    loop = asyncio.get_running_loop()
    signals = 0

    def on_signal(number: signal.Signals) -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            _end_now("a second signal: ended at once, its tasks wait until their lease has run out", 128 + number)
        _log.info("%s: draining", number.name)
        worker.drain()
        loop.call_later(
            grace + _BEYOND_GRACE, _end_now, "ended although handlers have not: they ignore their cancellation", 1
        )

    for number in _SIGNALS:
        loop.add_signal_handler(number, partial(on_signal, number))
    try:
        await worker.run(**settings)
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _end_now(message: str, status: int) -> None:
    _log.error(message)
    logging.shutdown()
    os._exit(status)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = vars(_parser().parse_args(arguments))
    place, level = options.pop("worker"), options.pop("log_level")
    given = {name: value for name, value in options.items() if value is not None}
    try:
        worker = load(place)
        settings = _checked(worker, given)
    except (WorkerNotFound, BadSettings) as error:
        print(f"relay-worker: {error}", file=sys.stderr)
        sys.exit(2)
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(_run(worker, given, settings.grace))
    except NotDelivered as error:
        print(f"relay-worker: {error}", file=sys.stderr)
        sys.exit(1)
    # Threads of handlers that do not end would keep the process: they are daemons, which no exit waits for.


if __name__ == "__main__":
    main()
