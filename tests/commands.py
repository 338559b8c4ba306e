"""The command `relay` within this process: as good as a process of its own where nothing but arguments and output matter."""

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import NamedTuple
from unittest import mock

import structlog

from relay.cli import main


class Ended(NamedTuple):
    """How a command has ended."""

    returncode: int
    stdout: str
    stderr: str


def bare_environ(**environ: str) -> dict[str, str]:
    """This environment without settings of a relay, and with these."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REDIS_"))}
    return inherited | environ


@contextmanager
def _quiet() -> Iterator[None]:
    """For the time of the block a command that sets up logging turns it off, and its loggers keep nothing of that."""
    config = structlog.get_config()

    def configure(_level: str) -> None:
        quiet = structlog.make_filtering_bound_logger(logging.CRITICAL)
        structlog.configure(wrapper_class=quiet, cache_logger_on_first_use=False)

    with mock.patch("relay.logs.configure", configure):
        try:
            yield
        finally:
            structlog.configure(**config)


def run(*arguments: str, stdin: str = "", **environ: str) -> Ended:
    """Run the command to its end.

    Args:
        arguments: What follows `relay` on the command line.
        stdin: What is piped into it.
        environ: Environment variables. No other setting of a relay is passed on.
    """
    stdout, stderr = io.StringIO(), io.StringIO()
    status = 0
    with (
        mock.patch.dict(os.environ, bare_environ(**environ), clear=True),
        mock.patch.object(sys, "argv", ["relay", *arguments]),
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
        redirect_stdout(stdout),
        redirect_stderr(stderr),
        _quiet(),
    ):
        try:
            main()
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return Ended(status, stdout.getvalue(), stderr.getvalue())
