"""The demonstration's child processes, none of which outlives it."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

#: Seconds for a process to end by itself.
_STOP = 8.0

_PR_SET_PDEATHSIG = 1


class DemoError(Exception):
    """The demonstration cannot go on."""


def _die_with_parent(parent: int) -> None:
    """In the child, before exec: have the kernel kill it when its parent ends, however it ends."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


class Process:
    """A child process. log: the file for its output; None: the terminal."""

    def __init__(
        self, name: str, module: str, *arguments: str, environ: dict[str, str], log: Path | None = None
    ) -> None:
        self.name = name
        self._log = log
        self._is_ending = False
        parent = os.getpid()
        command = [sys.executable, "-m", module, *arguments]
        with (log or Path(os.devnull)).open("ab") as output:
            self.popen = subprocess.Popen(
                command,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=None if log is None else output,
                stderr=None if log is None else subprocess.STDOUT,
                # The parent passes Ctrl-C on, in order.
                start_new_session=log is not None,
                preexec_fn=lambda: _die_with_parent(parent),
            )

    def output(self) -> str:
        """Return what it has logged."""
        return "" if self._log is None else self._log.read_text(errors="replace")

    def check(self) -> None:
        """Raises DemoError if it has ended."""
        status = self.popen.poll()
        if status is not None:
            last = "\n".join(self.output().splitlines()[-20:])
            raise DemoError(f"{self.name} has ended with status {status}\n{last}".rstrip())

    def request_end(self) -> None:
        """Send SIGTERM, once: at a second one a worker ends without draining."""
        if not self._is_ending and self.popen.poll() is None:
            self.popen.terminate()
        self._is_ending = True

    def stop(self) -> None:
        """End it, and wait for that."""
        self.request_end()
        try:
            self.popen.wait(_STOP)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait(_STOP)


def free_port(preferred: int) -> int:
    """Return the preferred port, or a free one if that is taken."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise DemoError("no free TCP port on 127.0.0.1")
