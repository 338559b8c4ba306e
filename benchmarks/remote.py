"""Child processes that carry out commands over a pipe: `Remote` is the side of the suite, `serve` that of the child."""

import subprocess
import sys
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Self

from benchmarks.machine import pinned
from relay.processes import start_child


class RemoteFailed(Exception):
    """The process ended, did not answer in time, or could not carry out a command."""


class Remote:
    """A child process that runs one of our modules on one core; a context manager that ends it."""

    def __init__(self, module: str, core: int) -> None:
        self._module = module
        self._pipe, theirs = Pipe()
        with theirs, pinned(core):
            command = [sys.executable, "-m", module, str(theirs.fileno())]
            self._child = start_child(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()
        self._pipe.close()

    def send(self, command: str, **arguments: Any) -> None:
        """Send a command; its result is to be fetched with `receive`."""
        try:
            self._pipe.send((command, arguments))
        except OSError:
            raise RemoteFailed(f"{self._module} has ended") from None

    def receive(self, timeout: float) -> Any:
        """Wait up to `timeout` seconds for the result of the oldest command. Raises RemoteFailed."""
        try:
            if not self._pipe.poll(timeout):
                raise RemoteFailed(f"{self._module} did not answer within {timeout:.0f} s")
            result = self._pipe.recv()
        except (EOFError, OSError):
            raise RemoteFailed(f"{self._module} has ended") from None
        if isinstance(result, Exception):
            raise RemoteFailed(f"{self._module}: {type(result).__name__}: {result}")
        return result

    def call(self, command: str, *, timeout: float = 30.0, **arguments: Any) -> Any:
        """Send a command and wait for its result."""
        self.send(command, **arguments)
        return self.receive(timeout)


def serve(
    target: object, wait: Callable[[Connection], None] | None = None, *, errors: tuple[type[Exception], ...]
) -> None:
    """In the child: call the target's methods as the parent asks, until the parent is gone.

    Args:
        target: Has the methods.
        wait: Returns when a command has arrived; may do other work meanwhile.
        errors: Exceptions that the parent gets as the result; any other ends the process.
    """
    pipe = Connection(int(sys.argv[1]))
    while True:
        if wait is not None:
            wait(pipe)
        try:
            command, arguments = pipe.recv()
        except EOFError:
            return
        try:
            result = getattr(target, command)(**arguments)
        except errors as error:
            result = error
        pipe.send(result)
