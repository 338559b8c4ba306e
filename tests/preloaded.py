"""Python programs that start in a tenth of a second: forks of one process that has imported the packages they need.

Importing takes nine tenths of a second of CPU, and the tests start hundreds of relays. A fork is a process of its own, with its
own environment, directory, session and exit status, as one that was executed; the kernel kills it when this process ends.
"""

import ctypes
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from relay.processes import Child, start_child

#: What most programs import. The programs themselves are left out: they run as `__main__`.
MODULES = (
    "relay.commands.serve",
    "relay_client.tail.command",
    "relay_jobs.worker",
    "hypercorn.trio",
    "hypercorn.asyncio",
    "uvicorn",
)

#: Bytes of a request, of which the environment is the most.
_MAX_REQUEST = 200_000

_PR_SET_PDEATHSIG = 1


class PreloadedChild:
    """A forked program, with what `subprocess.Popen` has."""

    def __init__(self, status: socket.socket) -> None:
        self._status = status
        self.pid = int(status.recv(20))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while the program runs."""
        return self._collect(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit status.

        Raises:
            TimeoutExpired: It runs on after `timeout` seconds.
        """
        status = self._collect(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(["preloaded", str(self.pid)], timeout or 0.0)
        return status

    def _collect(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            answer = self._status.recv(20)
            self.returncode = int(answer) if answer else -signal.SIGKILL  # the process that forked it was killed
            self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wait()

    def __del__(self) -> None:
        self._status.close()


class Preloader:
    """The process that has imported the packages, as seen from the one that wants forks of it. Safe in threads."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REDIS_"))}
            command = [sys.executable, "-m", "tests.preloaded", str(theirs.fileno())]
            self._process: Child = start_child(
                command, pass_fds=[theirs.fileno()], env=inherited, cwd=Path(__file__).parent.parent
            )
        self._control = ours
        self._lock = threading.Lock()
        for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            self._control.setsockopt(socket.SOL_SOCKET, buffer, 2 * _MAX_REQUEST)

    def start(
        self, arguments: list[str], env: Mapping[str, str], output: IO[bytes], errors: IO[bytes], cwd: Path
    ) -> PreloadedChild:
        """Start `python -m` with these arguments.

        Args:
            arguments: The module, and what it finds in `sys.argv`.
            env: Its whole environment.
            output: Where its output goes.
            errors: Where its errors go.
            cwd: Its directory.
        """
        request = json.dumps([arguments, dict(env), str(cwd)]).encode()
        assert len(request) < _MAX_REQUEST
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._lock:
            socket.send_fds(self._control, [request], [theirs.fileno(), output.fileno(), errors.fileno()])
        return PreloadedChild(ours)

    def close(self) -> None:
        """End the process, and all that it has forked."""
        self._control.close()
        self._process.wait()


#: Made for the first program of a test run. None in others, such as benchmarks: they measure programs as they are started.
_preloader: Preloader | None = None

#: What configured the packages of this process, since programs are started as forks, and its network; None before.
_configuration: tuple[dict[str, str], int] | None = None


def _configuration_of(env: Mapping[str, str]) -> tuple[dict[str, str], int]:
    """The variables that configure Python and packages while they are imported, and the network of this thread's programs."""
    network = Path("/proc/thread-self/ns/net").stat().st_ino
    return {name: value for name, value in env.items() if name.startswith(("PROMETHEUS_", "PYTHON"))}, network


def enable() -> None:
    """Start programs as forks in this process from now on."""
    global _configuration
    _configuration = _configuration_of(os.environ)


def start_program(
    arguments: list[str], env: Mapping[str, str], output: IO[bytes], cwd: Path, errors: IO[bytes] | None = None
) -> Child | PreloadedChild:
    """Start `python -m` with these arguments in a session of its own: as a fork if that makes no difference to it.

    Args:
        arguments: The module, and what it finds in `sys.argv`.
        env: Its whole environment.
        output: Where its output goes, and its errors where no other place is given.
        cwd: Its directory.
        errors: Where its errors go.
    """
    global _preloader
    # The kernel ends a child with the thread that has started it.
    may_start = _preloader is not None or threading.current_thread() is threading.main_thread()
    if not may_start or _configuration_of(env) != _configuration:
        command = [sys.executable, "-m", *arguments]
        return start_child(command, env=env, stdout=output, stderr=errors or output, cwd=cwd)
    if _preloader is None:
        _preloader = Preloader()
    return _preloader.start(arguments, env, output, errors or output, cwd)


def close() -> None:
    """End all programs that were started as forks."""
    global _preloader
    if _preloader is not None:
        _preloader.close()
        _preloader = None


class _Forks:
    """In the process that has imported the packages: serves requests until it is closed."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._running: dict[int, socket.socket] = {}
        self._woken, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> list[Any] | None:
        """Return the request in the process that is to run it, and None when no more come."""
        while True:
            ready, _, _ = select.select([self._control, self._woken], [], [])
            if self._woken in ready:
                self._woken.recv(4096)
                self._tell_ends()
            if self._control in ready:
                request, descriptors, _, _ = socket.recv_fds(self._control, _MAX_REQUEST, 3)
                if not request:
                    return None
                status, output, errors = descriptors
                parent = os.getpid()
                pid = os.fork()
                if pid == 0:
                    self._become_a_program(parent, status, output, errors)
                    return list(json.loads(request))
                os.close(output)
                os.close(errors)
                self._running[pid] = socket.socket(fileno=status)

    def _tell_ends(self) -> None:
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with self._running.pop(pid) as connection, suppress(OSError):
                connection.send(str(os.waitstatus_to_exitcode(status)).encode())

    def _become_a_program(self, parent: int, status: int, output: int, errors: int) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        # Only now: a signal to its group must find it.
        os.write(status, str(os.getpid()).encode())
        null = os.open(os.devnull, os.O_RDWR)
        for source, target in ((null, 0), (output, 1), (errors, 2)):
            os.dup2(source, target)
        for connection in (self._control, self._woken, self._wake, *self._running.values()):
            connection.detach()
        os.closerange(3, 4096)


def _main() -> None:
    for name in MODULES:
        importlib.import_module(name)
    request = _Forks(socket.socket(fileno=int(sys.argv[1]))).serve()
    if request is None:
        os._exit(0)
    arguments, environ, directory = request
    os.environ.clear()
    os.environ.update(environ)
    time.tzset()
    os.chdir(directory)
    sys.path[0] = directory  # as `python -m` has it
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
