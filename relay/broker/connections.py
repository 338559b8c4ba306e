"""Connections to Redis: batches of commands to one server, to the master that Sentinels name, or to the nodes of a cluster.

Everything here is asyncio and runs on redis-py's side of the bridge. Commands are packed by hiredis and written at once:
redis-py's own pipelines pack in Python, which costs six times as much, and those of its cluster client do not keep order.
"""

import asyncio
import math
import random
from collections.abc import Collection, Sequence
from typing import Any, Protocol

from hiredis import PushNotification, pack_command
from redis.asyncio import Connection, ConnectionPool, SSLConnection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from relay_wire import keys
from relay_wire.redis_urls import RedisTarget, async_pool, close_pool
from relay_wire.scripts import Script

from relay.broker.stream import NOT_YET, replies_at_hand, write
from relay.config import Settings

#: Seconds between two looks at a cluster's topology, when nothing asks for one.
REFRESH = 10.0


class Server:
    """One Redis server.

    pool:       connections for commands
    subscriber: makes those for subscriptions: RESP2, in which redis-py hands messages on without a detour for each

    Its connections are never closed under those who use them, from which redis-py raises whatever it comes upon.
    """

    def __init__(self, name: str, pool: ConnectionPool, subscriber: ConnectionPool) -> None:
        self.name = name
        self._pool = pool
        self._subscriber = subscriber
        self._loaded: set[str] = set()
        self._room = asyncio.Semaphore(pool.max_connections)
        self._users = 0
        self._is_closing = False

    async def exchange(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Run commands, in order, in one round trip; the answers, with an error in place of a refused one's. Where all
        connections are in use it waits for its turn.

        Raises RedisError or OSError when the connection fails. Cancelling closes the connection; commands may have been
        carried out then.
        """
        self._users += 1
        try:
            return await self._exchange(commands)
        finally:
            await self._leave()

    async def _exchange(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        async with self._room:
            connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
            try:
                await write(connection, b"".join([pack_command(tuple(command)) for command in commands]))
                return await self._answers(connection, len(commands))
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            finally:
                await self._pool.release(connection)

    @staticmethod
    async def _answers(connection: AbstractConnection, count: int) -> list[Any]:
        at_hand = replies_at_hand(connection)
        answers: list[Any] = []
        while len(answers) < count:
            try:
                # The deadline is the whole call's; one for each answer would cost more than the answer.
                answers.append(await connection.read_response(timeout=math.inf, disconnect_on_error=False))
            except ResponseError as error:
                answers.append(error)
            while len(answers) < count and (reply := at_hand()) is not NOT_YET:
                if isinstance(reply, RedisConnectionError):  # it is loading, for one
                    raise reply
                if not isinstance(reply, PushNotification):  # of those we asked for none
                    answers.append(reply)
        return answers

    async def run_script(
        self, script: Script, calls: Sequence[tuple[list[str], list[Any]]], replicas: int = 0, wait: float = 0.0
    ) -> list[Any]:
        """Run a script several times, in order, in one round trip; answers and errors as `exchange`.

        replicas, wait: so many replicas must have it within so many seconds, or every answer is a TimeoutError
        """
        if not replicas:
            return await self._run_loaded(script, calls, [])
        *answers, reached = await self._run_loaded(script, calls, [("WAIT", replicas, max(1, int(wait * 1000)))])
        if isinstance(reached, Exception) or reached < replicas:
            return [RedisTimeoutError(f"{reached} replicas have it, not {replicas}")] * len(answers)
        return answers

    async def _run_loaded(
        self, script: Script, calls: Sequence[tuple[list[str], list[Any]]], more: Sequence[Sequence[Any]]
    ) -> list[Any]:
        source, sha = script
        commands: list[Sequence[Any]] = [("EVALSHA", sha, len(names), *names, *values) for names, values in calls]
        commands += more
        answers: list[Any] = []
        if sha in self._loaded:
            answers = await self.exchange(commands)
            missing = [place for place, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            if not missing:
                return answers
            # The server was restarted, or is another one now: all calls after the first that missed it did as well.
            answers = answers[: missing[0]]
        # In one pipeline: whoever comes first, no call overtakes another for want of its script.
        loaded, *rest = await self.exchange([("SCRIPT", "LOAD", source), *commands[len(answers) :]])
        if not isinstance(loaded, Exception):
            self._loaded.add(sha)
        return answers + rest

    async def connect(self) -> AbstractConnection:
        """A connection for a subscription, to be closed by `discard`."""
        self._users += 1
        try:
            return await self._subscriber.get_connection()  # type: ignore[no-any-return, no-untyped-call]
        except BaseException:
            await self._leave()
            raise

    async def discard(self, connection: AbstractConnection) -> None:
        """Close a subscription's connection."""
        try:
            await connection.disconnect(nowait=True)
            await self._subscriber.release(connection)
        finally:
            await self._leave()

    async def close(self) -> None:
        """Close all connections, those in use when their users are done with them."""
        self._is_closing = True
        if not self._users:
            await self._close_pools()

    async def _leave(self) -> None:
        self._users -= 1
        if self._is_closing and not self._users:
            await self._close_pools()

    async def _close_pools(self) -> None:
        await close_pool(self._subscriber)
        await close_pool(self._pool)


class Servers(Protocol):
    """Where the commands for a key go."""

    is_sharded: bool

    def of(self, name: str) -> Server:
        """The server of a key, or of a sharded channel."""

    def any(self) -> Server:
        """One of them, for what any of them can do."""

    def all(self) -> Collection[Server]:
        """The servers that take writes."""

    async def refresh(self) -> None:
        """Find out who they are. Raises RedisError or OSError."""

    async def close(self) -> None:
        """Close all connections."""


class OneServer:
    """A single server, or the master that the Sentinels name: each new connection goes to whoever that is then."""

    is_sharded = False

    def __init__(self, server: Server) -> None:
        self._server = server

    def of(self, name: str) -> Server:  # noqa: ARG002 - there is but one
        """The one."""
        return self._server

    def any(self) -> Server:
        """The one."""
        return self._server

    def all(self) -> Collection[Server]:
        """The one."""
        return (self._server,)

    async def refresh(self) -> None:
        """Nothing to find out."""

    async def close(self) -> None:
        """Close all connections."""
        await self._server.close()


class ClusterServers:
    """The primaries of a cluster, as one of its nodes last told."""

    is_sharded = True

    def __init__(self, target: RedisTarget, options: dict[str, Any]) -> None:
        self._target = target
        self._options = target.options | options
        self._seeds = list(target.nodes)
        self._servers: dict[tuple[str, int], Server] = {}
        self._slots: list[tuple[int, int, Server]] = []
        self._by_tag: dict[str, Server] = {}

    def of(self, name: str) -> Server:
        """The server of a key. Raises ConnectionError while no node is known to serve it."""
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
        """One of the primaries."""
        servers = self.all()
        if not servers:
            raise RedisConnectionError("no node of the cluster is known")
        return random.choice(list(servers))

    def all(self) -> Collection[Server]:
        """The primaries that serve slots."""
        return {server.name: server for _, _, server in self._slots}.values()

    async def refresh(self) -> None:
        """Ask the nodes, those known to live first, until one answers."""
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
        return Server(
            f"{host}:{port}", ConnectionPool(**at, **options), ConnectionPool(**at, **(options | {"protocol": 2}))
        )

    async def close(self) -> None:
        """Close all connections."""
        for server in self._servers.values():
            await server.close()


def _slots_of(answer: Any, asked: tuple[str, int]) -> list[tuple[int, int, tuple[str, int]]]:
    """First and last slot and the primary's address, of all ranges. Raises ConnectionError when they cannot be read.

    asked: who answered. A node that does not know a host, or is not to say it, means itself or whom we know by that name
    """
    try:
        return [
            (int(first), int(last), ((host if host and host != b"?" else asked[0].encode()).decode(), int(port)))
            for first, last, (host, port, *_), *_replicas in answer
        ]
    except (TypeError, ValueError, AttributeError) as error:
        raise RedisConnectionError(f"the node tells its cluster's slots in an unknown form: {error}") from error


def open_servers(target: RedisTarget, settings: Settings, more: dict[str, Any]) -> Servers:
    """The servers that a URL names. Does not connect."""
    options: dict[str, Any] = {
        "max_connections": settings.redis_max_connections,
        "socket_timeout": settings.redis_timeout,
        "socket_connect_timeout": settings.redis_timeout,
        # Our deadline is the whole call's, and redis-py's own retries would multiply it.
        "retry": Retry(NoBackoff(), 0),
        "client_name": "relay",
        **more,
    }
    if target.kind == "cluster":
        return ClusterServers(target, options)
    return OneServer(Server("redis", async_pool(target, **options), async_pool(target, **options, protocol=2)))
