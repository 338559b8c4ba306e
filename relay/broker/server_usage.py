"""What a Redis server uses, as its INFO says: memory, connections, and what it has evicted."""

from typing import NamedTuple


class ServerUsage(NamedTuple):
    """The usage of one server. A number that Redis does not report is None.

    Attributes:
        memory_used: Bytes that Redis has allocated.
        memory_max: ``maxmemory`` in bytes; 0 if it has no limit.
        connected_clients: Connections of clients.
        evicted_keys: Keys evicted for want of memory since the server started.
    """

    memory_used: int | None
    memory_max: int | None
    connected_clients: int | None
    evicted_keys: int | None

    @classmethod
    def parse(cls, info: str) -> "ServerUsage":
        """Return what the text of INFO says; lines that cannot be read are left out."""
        named = dict(line.split(":", 1) for line in info.splitlines() if ":" in line and not line.startswith("#"))

        def number(name: str) -> int | None:
            text = named.get(name, "")
            return int(text) if text.isascii() and text.isdecimal() and len(text) <= 20 else None

        return cls(number("used_memory"), number("maxmemory"), number("connected_clients"), number("evicted_keys"))
