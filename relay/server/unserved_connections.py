"""Connections of one address that no session serves: those that have sent no request yet, and those that the server answers."""

from collections import Counter
from typing import Any

from relay.core.client_address import TrustedProxies, peer_address

#: Such connections of one address that are always allowed: a browser opens six, and several may share an address.
MIN_CONNECTIONS = 32


class UnservedConnections:
    """Counts connections by the address at their other end, where clients per address are limited.

    Otherwise an address that may have no more clients could still have all files of the process, with connections on which it
    sends nothing. Connections of trusted proxies are not counted.

    Args:
        proxies: The trusted proxies.
        max_clients: Clients of one address; 0 is no limit.
    """

    def __init__(self, proxies: TrustedProxies, max_clients: int) -> None:
        self._proxies = proxies
        self._limit = max(MIN_CONNECTIONS, max_clients) if max_clients else 0
        self._counts = Counter[str]()

    def key_of(self, address: Any) -> str | None:
        """Return under which name a connection is counted; None if it is not.

        Args:
            address: The other end of the connection, as its socket gives it.
        """
        if not self._limit:
            return None
        peer = peer_address(address)
        return None if self._proxies.trusts(peer) else peer.network

    def has_room(self, key: str | None) -> bool:
        """Whether there may be one more connection."""
        return key is None or self._counts.get(key, 0) < self._limit

    def add(self, key: str | None) -> None:
        """Count a connection."""
        if key is not None:
            self._counts[key] += 1

    def remove(self, key: str | None) -> None:
        """Count that a connection has ended, or has become a client's."""
        if key is not None:
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]
