"""The addresses that this process listens on, whichever server has opened the sockets."""

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

_DESCRIPTORS = Path("/proc/self/fd")


def bound_addresses(ignored: str | None) -> list[str]:
    """Return the IP addresses of sockets that are bound and not connected. Linux only; none elsewhere.

    A server that opens its socket only after the start of the app, as uvicorn with one worker, has none yet.

    Args:
        ignored: HOST:PORT of a listener that does not count.
    """
    found = set()
    descriptors = [int(entry.name) for entry in _DESCRIPTORS.iterdir()] if _DESCRIPTORS.is_dir() else []
    for descriptor in descriptors:
        with suppress(OSError):  # it was that of the directory, or is connected
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                found.add(_bound_address(descriptor))
    return sorted(
        {host for host, port in found if host and f"{host}:{port}" != (ignored or "").replace("[", "").replace("]", "")}
    )


def _bound_address(descriptor: int) -> tuple[str, int]:
    """Return the address that a socket is bound to; an empty host if it is connected, or not of IP."""
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        if copy.family not in (socket.AF_INET, socket.AF_INET6) or copy.type != socket.SOCK_STREAM:
            return "", 0
        host, port = copy.getsockname()[:2]
        try:
            copy.getpeername()
        except OSError:
            return (host, port) if port else ("", 0)
        return "", 0
