"""Facts that Redis reports about itself: its version, and how often it closed connections for want of buffer space."""

from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from relay.broker.connections import Server
from relay.core.errors import BrokerRefused

#: The oldest supported Redis. Clusters need 7.0, for sharded channels.
OLDEST = (6, 2)
OLDEST_CLUSTER = (7, 0)


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A part of the answer of INFO. What Redis does not say, or may not say, is None.

    Attributes:
        version_text: The version as Redis names it.
        version: Major and minor version of the Redis that it is compatible with.
        run_id: Names this run of the server.
        is_cluster: Whether it is a node of a cluster.
        output_buffer_disconnects: Connections closed since they had more than ``client-output-buffer-limit`` waiting.
    """

    version_text: str | None = None
    version: tuple[int, int] | None = None
    run_id: str | None = None
    is_cluster: bool = False
    output_buffer_disconnects: int | None = None

    @classmethod
    def parse(cls, text: str) -> "ServerInfo":
        """Return what the text of INFO says; lines that cannot be read are left out."""
        named = dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))
        version = None
        parts = named.get("redis_version", "").split(".")
        if len(parts) >= 2 and parts[0].isdecimal() and parts[1].isdecimal():
            version = int(parts[0]), int(parts[1])
        name = f"valkey {named['valkey_version']}" if "valkey_version" in named else named.get("redis_version")
        cut = named.get("client_output_buffer_limit_disconnections", "")
        return cls(
            name,
            version,
            named.get("run_id"),
            "cluster" in (named.get("server_mode"), named.get("redis_mode")),  # Valkey's name, and Redis'
            int(cut) if cut.isdecimal() else None,
        )

    def require_supported(self) -> None:
        """Check the version.

        Raises:
            BrokerRefused: It is too old.
        """
        oldest = OLDEST_CLUSTER if self.is_cluster else OLDEST
        if self.version is not None and self.version < oldest:
            needed = ".".join(map(str, oldest))
            kind = "a cluster of Redis" if self.is_cluster else "Redis"
            raise BrokerRefused(f"{kind} {self.version_text} is too old: Relay needs version {needed} or later")

    def has_cut_since(self, before: "ServerInfo") -> bool:
        """Whether the same run of the server has closed connections for want of buffer space since an earlier look."""
        now, then = self.output_buffer_disconnects, before.output_buffer_disconnects
        return now is not None and then is not None and self.run_id == before.run_id and now > then


async def read_server_info(server: Server) -> ServerInfo:
    """Ask a server about itself. Runs in asyncio's context. A server that may not say answers with an empty info.

    Raises:
        RedisError: The server cannot be reached.
        OSError: The same.
    """
    answers: list[Any] = await server.exchange([("INFO", "server"), ("INFO", "stats")])
    text = "\n".join(answer.decode(errors="replace") for answer in answers if isinstance(answer, bytes))
    for answer in answers:
        if isinstance(answer, RedisError) and str(answer).startswith(("LOADING", "MASTERDOWN", "NOAUTH", "WRONGPASS")):
            raise answer
    return ServerInfo.parse(text)
