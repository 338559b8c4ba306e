"""Which server a command goes to: a single one, the master that Sentinels name, or the primaries of a cluster."""

import asyncio
import random
from collections.abc import Collection
from typing import Any, Protocol

from redis.asyncio import Connection, ConnectionPool, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from relay_wire import keys
from relay_wire.redis_urls import RedisTarget, async_pool

from relay.broker.connections import Server
from relay.config import Settings

#: Seconds between two looks at a cluster's topology, when nothing asks for one.
REFRESH = 10.0


#: Every supported Redis knows RESP2, and redis-py returns the messages of a RESP2 subscription without a detour for each. Relay
#: reads bytes.
_FIXED: dict[str, Any] = {"protocol": 2, "decode_responses": False}

#: Connections for subscriptions: one is used at a time, and one is the dedicated connection for plain messages.
_SUBSCRIBER_CONNECTIONS = 8


class Servers(Protocol):
    """Where the commands for a key go."""

    is_sharded: bool

    def of(self, name: str) -> Server:
        """Return the server of a key, or of a sharded channel.

        Raises:
            ConnectionError: No node is known to serve it.
        """

    def any(self) -> Server:
        """Return one of the servers, for what any of them can do.

        Raises:
            ConnectionError: No node is known.
        """

    def all(self) -> Collection[Server]:
        """Return the servers that take writes."""

    async def refresh(self) -> None:
        """Find out who they are.

        Raises:
            RedisError: None of them answers.
            OSError: The same.
        """

    async def close(self) -> None:
        """Close all connections."""


class OneServer:
    """A single server, or the master that the Sentinels name: each new connection goes to the one that is master then."""

    is_sharded = False

    def __init__(self, server: Server) -> None:
        self._server = server

    def of(self, name: str) -> Server:  # noqa: ARG002 - there is but one
        """Return the server."""
        return self._server

    def any(self) -> Server:
        """Return the server."""
        return self._server

    def all(self) -> Collection[Server]:
        """Return the server."""
        return (self._server,)

    async def refresh(self) -> None:
        """Do nothing: there is nothing to find out."""

    async def close(self) -> None:
        """Close all connections."""
        await self._server.close()


class ClusterServers:
    """The primaries of a cluster, as one of its nodes last named them."""

    is_sharded = True

    def __init__(self, target: RedisTarget, options: dict[str, Any]) -> None:
        self._options = target.options | options
        self._seeds = list(target.nodes)
        self._servers: dict[tuple[str, int], Server] = {}
        self._slots: list[tuple[int, int, Server]] = []
        self._by_tag: dict[str, Server] = {}

    def of(self, name: str) -> Server:
        """Return the primary that serves a key."""
        tag = keys.tag_of(name)
        server = self._by_tag.get(tag)
        if server is None:
            slot = key_slot(tag.encode())
            for first, last, candidate in self._slots:
                if first <= slot <= last:
                    server = candidate
                    break
            else:
                raise RedisConnectionError("no node of the cluster is known to serve this key")
            if len(self._by_tag) < 4 * keys.BUCKETS:
                self._by_tag[tag] = server
        return server

    def any(self) -> Server:
        """Return one of the primaries."""
        servers = self.all()
        if not servers:
            raise RedisConnectionError("no node of the cluster is known")
        return random.choice(list(servers))

    def all(self) -> Collection[Server]:
        """Return the primaries that serve slots."""
        return {server.name: server for _, _, server in self._slots}.values()

    async def refresh(self) -> None:
        """Ask the nodes, those known to be up first, until one answers."""
        known = list(self._servers)
        random.shuffle(known)
        failure: Exception = RedisConnectionError("the URL names no node")
        for place in [*known, *(seed for seed in self._seeds if seed not in self._servers)]:
            server = self._servers.get(place) or self._open(place)
            try:
                async with asyncio.timeout(self._options["socket_timeout"] / 2):
                    (answer,) = await server.exchange([("CLUSTER", "SLOTS")])
            except (RedisError, OSError, TimeoutError) as error:
                failure = error
            else:
                if isinstance(answer, Exception):
                    failure = answer
                elif answer:
                    try:
                        slots = _slots_of(answer, place)
                    except RedisConnectionError as error:
                        failure = error
                        continue
                    await self._take(slots)
                    return
                else:
                    failure = RedisConnectionError("the node serves no cluster yet")
            finally:
                if self._servers.get(place) is not server:
                    await server.close()
        raise failure

    async def _take(self, ranges: list[tuple[int, int, tuple[str, int]]]) -> None:
        slots = []
        seen: dict[tuple[str, int], Server] = {}
        for first, last, place in ranges:
            server = seen.get(place) or self._servers.get(place) or self._open(place)
            seen[place] = server
            slots.append((first, last, server))
        gone = [server for place, server in self._servers.items() if place not in seen]
        self._servers, self._slots = seen, slots
        self._by_tag.clear()
        for server in gone:
            await server.close()

    def _open(self, place: tuple[str, int]) -> Server:
        host, port = place
        options = dict(self._options)
        kind = SSLConnection if options.pop("ssl", False) else Connection
        at: dict[str, Any] = {"connection_class": kind, "host": host, "port": port}
        return Server(f"{host}:{port}", ConnectionPool(**at, **options), ConnectionPool(**at, **options))

    async def close(self) -> None:
        """Close all connections."""
        for server in self._servers.values():
            await server.close()


def _slots_of(answer: Any, asked: tuple[str, int]) -> list[tuple[int, int, tuple[str, int]]]:
    """Return first slot, last slot and the primary's address of all ranges.

    Args:
        answer: What CLUSTER SLOTS answered.
        asked: The node that answered. If it does not know a host, or may not name it, it means itself.

    Raises:
        ConnectionError: The answer cannot be read.
    """
    try:
        return [
            (int(first), int(last), ((host if host and host != b"?" else asked[0].encode()).decode(), int(port)))
            for first, last, (host, port, *_), *_replicas in answer
        ]
    except (TypeError, ValueError, AttributeError) as error:
        raise RedisConnectionError(f"the node names the cluster's slots in an unknown form: {error}") from error


def open_servers(target: RedisTarget, settings: Settings, more: dict[str, Any], max_connections: int) -> Servers:
    """Return the servers that a URL names. Does not connect.

    All connections speak RESP2 and return bytes, whatever the URL says.

    Args:
        target: The parsed URL.
        settings: Time-outs.
        more: Further options of redis-py's connections.
        max_connections: Connections for commands to each server.
    """
    options: dict[str, Any] = {
        "max_connections": max_connections,
        "socket_timeout": settings.redis_timeout,
        "socket_connect_timeout": settings.redis_timeout,
        # Our deadline is the whole call's, and redis-py's own retries would multiply it.
        "retry": Retry(NoBackoff(), 0),
        "client_name": "relay",
        **more,
    }
    if target.kind == "cluster":
        return ClusterServers(target, options | _FIXED)
    subscriber_pool = async_pool(target, fixed=_FIXED | {"max_connections": _SUBSCRIBER_CONNECTIONS}, **options)
    return OneServer(Server("redis", async_pool(target, fixed=_FIXED, **options), subscriber_pool))
