"""Clients that vanish without a word: their network goes, and nothing ever comes from them again, no FIN and no RST.

Real processes in a network namespace of their own, whose loopback interface goes down. Redis is on a Unix socket, and stays.
"""

import ctypes
import fcntl
import os
import re
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.harness import Kind, RedisServer, RelayServer, eventually
from tests.kernel import connections_to

_CLONE_NEWNET = 0x4000_0000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def set_loopback(*, up: bool) -> None:
    """Switch the loopback interface of this thread's namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14x", b"lo", 0)
        (flags,) = struct.unpack("16xH14x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))
        flags = flags | _IFF_UP if up else flags & ~_IFF_UP
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags))


def in_namespace(run: Callable[[], None]) -> None:
    """Run something in a thread that has a network namespace of its own, as have the processes that it starts."""
    failures: list[BaseException] = []
    refused = []

    def enter_and_run() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET) != 0:
            refused.append(os.strerror(ctypes.get_errno()))
            return
        try:
            set_loopback(up=True)
            run()
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    thread = threading.Thread(target=enter_and_run)
    thread.start()
    thread.join()
    if refused:
        pytest.skip(f"no network namespace can be had here: {refused[0]}")
    if failures:
        raise failures[0]


@pytest.mark.parametrize("kind", ["hypercorn", "hypercorn-tls", "uvicorn"])
def test_clients_that_vanish_are_let_go(kind: Kind, tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    def run() -> None:
        directory = tmp_path / "redis"
        directory.mkdir()
        path = directory / "redis.sock"
        options: dict[str, Any] = {"heartbeat_interval": 1, "dead_peer_timeout": 3, "certificate": certificate}
        with (
            RedisServer(directory, "--save", "", "--unixsocket", str(path)),
            RelayServer(tmp_path, f"unix://{path}", kind, **options) as relay,
        ):
            for _ in range(5):
                relay.raw_client("t")
            assert connections_to(relay.port) >= 5
            set_loopback(up=False)
            started = monotonic()
            eventually(lambda: connections_to(relay.port) == 0)
            assert monotonic() - started > 1.0, "it was not the network's going that ended them"
            set_loopback(up=True)
            if kind != "hypercorn-tls":
                eventually(lambda: 'relay_connections{transport="' in relay.get("/metrics")[1])
                eventually(lambda: not re.search(r"^relay_connections{.*} [1-9]", relay.get("/metrics")[1], re.M))
            with relay.client("t", **relay.tls_options()):
                pass

    in_namespace(run)
