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
    """In the child, before exec: ask the kernel for SIGKILL when the parent's thread ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def die_with_parent() -> None:
    """Have the kernel end this process, with SIGTERM, when its parent does: for one of several workers, whose supervisor
    would otherwise leave it behind when it is killed. Linux only; does nothing elsewhere."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        parent = multiprocessing.parent_process()
        if parent is not None and os.getppid() != parent.pid:  # it ended before we asked
            os.kill(os.getpid(), signal.SIGTERM)


#: More files than this a process of ours has no use for: a client is one, and there are `RELAY_MAX_CLIENTS` at most.
_MOST_FILES = 65_536


def raise_file_limit() -> None:
    """Open as many files as we may: each client is one, and container runtimes start processes with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def start_child(arguments: Sequence[str], **options: Any) -> Child:
    """Start a process that the kernel kills when the calling thread ends. Options are those of Popen. Linux only.

    It is in a session of its own: a Ctrl-C at the terminal is ours to hand on, when the clients are gone.
    """
    parent = os.getpid()
    return subprocess.Popen(arguments, preexec_fn=lambda: _die_with_parent(parent), start_new_session=True, **options)


async def wait_for_exit(child: Child) -> int:
    """Wait until a child has ended; returns its exit status. May be cancelled, which leaves the child alone."""
    if child.poll() is None:
        pidfd = os.pidfd_open(child.pid)
        try:
            await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)
    return child.wait()


async def stop_child(child: Child, grace: float) -> int:
    """End a child: SIGTERM, and SIGKILL after `grace` seconds. Not cancelled before that; returns the exit status."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + grace):
        if child.poll() is None:
            child.terminate()
            await wait_for_exit(child)
    if child.poll() is None:
        child.kill()
    return child.wait()
