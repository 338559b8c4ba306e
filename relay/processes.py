"""Child processes that never outlive us (the embedded Redis, the workers of `relay serve`), and what a process leaves behind.

`subprocess.Popen` from the event loop's own thread, not `trio.run_process`: that forks in a worker thread, whose end the kernel
would take for the parent's and kill the child.
"""

import ctypes
import fcntl
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import trio

from relay.core.errors import ConfigError

_PR_SET_PDEATHSIG = 1

Child = subprocess.Popen[bytes]

#: Children of ours that have not been waited for, by their process ids.
_children: dict[int, Child] = {}

#: In a temporary directory of ours: locked for as long as its process lives.
_LOCK = ".lock"

#: Seconds after which a directory without a lock is not one that is just being made.
_LOCK_GRACE = 60.0


def _die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGKILL when the parent's thread ends. Runs in the child, before exec."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def die_with_parent() -> None:
    """Have the kernel send this process SIGTERM when its parent ends. Linux only; does nothing elsewhere.

    It is for one of several workers, which would otherwise be left behind when their supervisor is killed.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        parent = multiprocessing.parent_process()
        if parent is not None and os.getppid() != parent.pid:  # it ended before we asked
            os.kill(os.getpid(), signal.SIGTERM)


#: A process of ours has no use for more files: each client is one, and `RELAY_MAX_CLIENTS` limits them.
MAX_FILES = 65_536


def raise_file_limit() -> None:
    """Raise the limit of open files as far as allowed: each client is one, and container runtimes start with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def start_child(arguments: Sequence[str], **options: Any) -> Child:
    """Start a process that the kernel kills when the calling thread ends. Linux only.

    The process is in a session of its own, so that it does not get a Ctrl-C at the terminal. We stop it after the clients.

    Args:
        arguments: The program and its arguments.
        options: As for `subprocess.Popen`.
    """
    parent = os.getpid()
    child = subprocess.Popen(arguments, preexec_fn=lambda: _die_with_parent(parent), start_new_session=True, **options)
    _children[child.pid] = child
    return child


async def wait_for_exit(child: Child) -> int:
    """Wait until a child has ended, and return its exit status. Cancelling leaves the child running."""
    if child.poll() is None:
        pidfd = os.pidfd_open(child.pid)
        try:
            await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)
    _children.pop(child.pid, None)
    return child.wait()


async def stop_child(child: Child, grace: float) -> int:
    """End a child with SIGTERM, or with SIGKILL after `grace` seconds, and return its exit status. Shielded for that time."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + grace):
        if child.poll() is None:
            child.terminate()
            child.send_signal(signal.SIGCONT)  # a stopped process would not receive it
            await wait_for_exit(child)
    if child.poll() is None:
        child.kill()
    _children.pop(child.pid, None)
    return child.wait()


async def reap_orphans() -> None:
    """Reap processes that became our children when their parents ended, until cancelled: for a process with id 1.

    They come from `docker exec` and from shells in a container. Children of `start_child` are left to those who wait for them.
    """
    with trio.open_signal_receiver(signal.SIGCHLD) as signals:
        while True:
            _reap_once()
            async for _ in signals:
                break


def _reap_once() -> None:
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None:
            return
        child = _children.get(found.si_pid)
        if child is not None:
            child.poll()  # reaps it, and keeps the status for the waiting task
        else:
            with suppress(ChildProcessError):
                os.waitpid(found.si_pid, os.WNOHANG)


@contextmanager
def temporary_directory(prefix: str) -> Iterator[Path]:
    """Make a temporary directory for the time of the block, and clear those of processes that were killed.

    Args:
        prefix: Begins the directory's name, and the names of those that are cleared.

    Raises:
        ConfigError: There is no temporary directory that can be written to.
    """
    try:
        directory = Path(tempfile.mkdtemp(prefix=prefix))
        lock = (directory / _LOCK).open("wb")
    except OSError as error:
        raise ConfigError(f"no temporary directory can be made: {error}. Set TMPDIR to one that is writable.") from None
    try:
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _clear_abandoned(prefix)
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _clear_abandoned(prefix: str) -> None:
    """Remove directories with this prefix whose lock nobody holds. A lock works across containers, a process id does not."""
    for directory in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # it is another user's, or has just gone
            if directory.stat().st_uid != os.getuid() or not directory.is_dir():
                continue
            lock = directory / _LOCK
            if not lock.exists():
                if time.time() - directory.stat().st_mtime > _LOCK_GRACE:
                    shutil.rmtree(directory, ignore_errors=True)
                continue
            with lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)


def take_lock(name: str) -> bool:
    """Take a lock that all processes of this user see, for as long as this process lives; False when another one has it."""
    path = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}.lock"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    return True
