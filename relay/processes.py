"""Child processes that never outlive us: the embedded Redis and the workers of `relay serve`.

`subprocess.Popen` from the event loop's own thread, not `trio.run_process`: that forks in a worker thread, whose end the kernel
would take for the parent's and kill the child.
"""

import ctypes
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import trio

_PR_SET_PDEATHSIG = 1

Child = subprocess.Popen[bytes]


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
_MAX_FILES = 65_536


def raise_file_limit() -> None:
    """Raise the limit of open files as far as allowed: each client is one, and container runtimes start with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
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
    return subprocess.Popen(arguments, preexec_fn=lambda: _die_with_parent(parent), start_new_session=True, **options)


async def wait_for_exit(child: Child) -> int:
    """Wait until a child has ended, and return its exit status. Cancelling leaves the child running."""
    if child.poll() is None:
        pidfd = os.pidfd_open(child.pid)
        try:
            await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)
    return child.wait()


async def stop_child(child: Child, grace: float) -> int:
    """End a child with SIGTERM, or with SIGKILL after `grace` seconds, and return its exit status. Shielded for that time."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + grace):
        if child.poll() is None:
            child.terminate()
            await wait_for_exit(child)
    if child.poll() is None:
        child.kill()
    return child.wait()
