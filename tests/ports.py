"""Ports for the servers of tests, which may run in parallel."""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from random import Random


def _ports() -> Iterator[int]:
    """Ports below those that the kernel gives to connecting sockets, in a row that starts anywhere.

    Each process of a parallel run has a range of its own: a server that a test has killed, and will start again, must find its
    port free, and its clients must not meet another test's server there.
    """
    first, last = 10_000, int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    count = (last - first) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ports = range(first + worker * count, first + (worker + 1) * count)
    start = Random().randrange(len(ports))  # of its own: Hypothesis seeds the shared one
    return cycle([*ports[start:], *ports[:start]])


_candidates = _ports()


def free_port() -> int:
    """A port of 127.0.0.1 that no server has, and that no client of a test that runs at the same time can be given."""
    while True:
        port = next(_candidates)
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
