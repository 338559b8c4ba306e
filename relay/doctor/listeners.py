"""The listening sockets of this machine, as Linux' socket diagnosis (sock_diag(7)) shows them: what `ss -ltn` prints."""

import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_REQUEST_DUMP = 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_TCP_LISTEN = 10

#: struct nlmsghdr; the beginning of struct inet_diag_req_v2; of struct inet_diag_msg: family, state, timer, retransmissions,
#: the ports in network order, and after the 40 further bytes of the ids and 4 of the time-out the two queues.
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI48x")
_MESSAGE = struct.Struct("!BBBBHH")
_QUEUES = struct.Struct("=II")
_QUEUES_AT = 4 + 48 + 4

#: Seconds for the kernel's answer, and bytes that are read of it at a time.
_TIMEOUT = 1.0
_READ = 256 * 1024


class Listener(NamedTuple):
    """A listening TCP socket.

    Attributes:
        port: Its port.
        waiting: Connections that wait to be accepted.
        backlog: Connections that may wait.
    """

    port: int
    waiting: int
    backlog: int


def listeners() -> list[Listener]:
    """Return the listening TCP sockets of this network namespace.

    Raises:
        OSError: The kernel does not say.
    """
    found: list[Listener] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as sock:
        sock.settimeout(_TIMEOUT)
        for family in (socket.AF_INET, socket.AF_INET6):
            request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 1 << _TCP_LISTEN)
            size = _HEADER.size + len(request)
            sock.send(_HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_REQUEST_DUMP, 0, 0) + request)
            found += _read_dump(sock)
    return found


def _read_dump(sock: socket.socket) -> Iterator[Listener]:
    while True:
        data = sock.recv(_READ)
        while len(data) >= _HEADER.size:
            size, kind, *_ = _HEADER.unpack_from(data)
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR or size < _HEADER.size:
                raise OSError("the kernel does not list sockets")
            body = data[_HEADER.size : size]
            *_, port, _ = _MESSAGE.unpack_from(body)
            yield Listener(port, *_QUEUES.unpack_from(body, _QUEUES_AT))
            data = data[(size + 3) & ~3 :]


def longest_backlog() -> int:
    """Return the longest backlog that the kernel grants (``net.core.somaxconn``). Raises OSError and ValueError."""
    return int(Path("/proc/sys/net/core/somaxconn").read_text())


def overflows() -> int | None:
    """Return how many connections met a full backlog of any program since this machine started; None if that is not known."""
    try:
        lines = [
            line.split() for line in Path("/proc/net/netstat").read_text().splitlines() if line.startswith("TcpExt:")
        ]
        return int(dict(zip(*lines, strict=True))["ListenOverflows"])
    except (OSError, KeyError, TypeError, ValueError):
        return None
