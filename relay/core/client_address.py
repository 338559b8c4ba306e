"""A client's address: that of its connection, or the one that a trusted proxy reports in `Forwarded` or `X-Forwarded-For`."""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

#: What stands for the other end of a Unix socket in a list of trusted proxies.
UNIX = "unix"

#: Proxies that a request may have passed. What is further left in a header is not read.
MAX_HOPS = 32

#: Prefix length of the IPv6 network that counts as one address: a subscriber of a provider has a /64 at least.
_IPV6_PREFIX = 64

_Address = IPv4Address | IPv6Address


class ClientAddress(NamedTuple):
    """Where a client is.

    Attributes:
        host: Its IP address in its usual text form; None when it has none, as on a Unix socket.
        port: Its TCP port; None when it is not known.
    """

    host: str | None
    port: int | None = None

    def __str__(self) -> str:
        if self.host is None:
            return "unknown"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @property
    def network(self) -> str | None:
        """What limits count as one address: an IPv4 address, or the /64 of an IPv6 address."""
        return None if self.host is None else _network_of(self.host)


@lru_cache(1024)
def _network_of(host: str) -> str:
    return str(IPv6Network((host, _IPV6_PREFIX), strict=False)) if ":" in host else host


def _parse(text: str) -> _Address | None:
    """Return an IP address in its usual form, one that IPv6 only wraps as IPv4; None when the text is none."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def peer_address(address: object) -> ClientAddress:
    """Return the address that a socket or an ASGI server gives for the other end of a connection."""
    if not isinstance(address, tuple | list) or len(address) < 2:
        return ClientAddress(None)
    port = address[1] if isinstance(address[1], int) and address[1] else None
    return ClientAddress(_usual_form(str(address[0])), port)


@lru_cache(1024)
def _usual_form(text: str) -> str | None:
    """Return an IP address in its usual form; many connections come from one, of a proxy or a network."""
    parsed = _parse(text)
    return None if parsed is None else str(parsed)


def _node(text: str) -> _Address | None:
    """Return the address of a node, with or without port (RFC 7239 section 6); None for `unknown` and hidden names."""
    text = text.strip().strip('"')
    if text.startswith("["):
        return _parse(text[1:].partition("]")[0])
    return _parse(text.partition(":")[0] if text.count(":") == 1 else text)


def _forwarded_nodes(values: list[str]) -> list[str]:
    """Return what each element of `Forwarded` says with ``for=``; an element without it is ``unknown``."""
    nodes = []
    for element in ",".join(values).split(",")[-MAX_HOPS:]:
        pairs = (pair.partition("=") for pair in element.split(";"))
        nodes.append(next((value for name, _, value in pairs if name.strip().lower() == "for"), "unknown"))
    return nodes


class TrustedProxies:
    """Finds clients' addresses behind the proxies of the operator.

    A header is believed only as far as trusted proxies wrote it: from the right, the first address that is no trusted
    proxy's is the client's. What stands left of it came from the client itself.

    Args:
        networks: Addresses and networks of trusted proxies, such as ``10.0.0.0/8``; ``unix`` is the other end of a Unix socket.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        names = list(networks)
        self._networks = tuple(ip_network(name, strict=False) for name in names if name != UNIX)
        self._trusts_unix = UNIX in names

    def client(self, peer: object, headers: Iterable[tuple[bytes, bytes]]) -> ClientAddress:
        """Return the address of a request's client.

        If `Forwarded` and `X-Forwarded-For` name different clients, one of them was sent by the client and passed on by a
        proxy that sets only the other. Then neither is believed, and the address is the proxy's.

        Args:
            peer: The other end of the connection, as a socket or an ASGI server gives it.
            headers: The request's headers; names in any case.
        """
        nearest = peer_address(peer)
        if not self.trusts(nearest):
            return nearest
        forwarded: list[str] = []
        x_forwarded_for: list[str] = []
        for name, value in headers:
            match name.lower():
                case b"forwarded":
                    forwarded.append(value.decode("latin1"))
                case b"x-forwarded-for":
                    x_forwarded_for.append(value.decode("latin1"))
        found = {
            self._rightmost_untrusted(nodes)
            for nodes in (_forwarded_nodes(forwarded), ",".join(x_forwarded_for).split(",")[-MAX_HOPS:])
            if nodes not in (["unknown"], [""])
        } - {None}
        host = found.pop() if len(found) == 1 else None
        return nearest if host is None else ClientAddress(host)

    def trusts(self, peer: ClientAddress) -> bool:
        """Whether the other end of a connection is a trusted proxy."""
        if peer.host is None:
            return self._trusts_unix
        return bool(self._networks) and self._is_proxy(ip_address(peer.host))

    def _is_proxy(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)

    def _rightmost_untrusted(self, nodes: list[str]) -> str | None:
        """Return the first address from the right that is no trusted proxy's.

        It is the leftmost one when all are trusted. A node without an address ends the search: what stands left of it is not
        known to come from a trusted proxy.
        """
        last: _Address | None = None
        for node in reversed(nodes):
            address = _node(node)
            if address is None:
                break
            last = address
            if not self._is_proxy(address):
                break
        return None if last is None else str(last)
