"""The one connection of a publisher to Redis: on a cluster, one to each node that is needed.

redis-py has two clients of the same shape, one whose methods are coroutines and one whose methods block. `Connection` says once
what is sent and read; `AsyncioConnection` and `BlockingConnection` bring a client each.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from inspect import isawaitable
from typing import Any

import redis
from redis.asyncio import RedisCluster as AsyncRedisCluster
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisClusterException, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from redis.sentinel import SentinelConnectionPool
from relay_wire import redis_urls
from relay_wire.redis_urls import RedisTarget

from relay_client.publishing.exchange import Exchange
from relay_client.redis_errors import REDIS_FAILURES


def connection_options(timeout: float, client_name: str) -> dict[str, Any]:
    """Return options for redis-py's asyncio clients: no retries, which multiply deadlines; no time-out but for connecting.

    So every call needs a time-out around it. redis-py's own is `asyncio.wait_for` where it sends, which before Python 3.12
    swallows a cancellation that comes just then: some ten percent of those that hit it while it connects.
    """
    return {
        "socket_timeout": None,
        "socket_connect_timeout": timeout,
        "retry": AsyncRetry(NoBackoff(), 0),
        "client_name": client_name,
    }


def without_retries(target: RedisTarget, timeout: float = 2.0) -> RedisTarget:
    """Return the target with Sentinels that are asked once each, all within the timeout (seconds), by asyncio."""
    return _with_sentinel_options(target, AsyncRetry(NoBackoff(), 0), timeout)


def _with_sentinel_options(target: RedisTarget, retry: object, timeout: float) -> RedisTarget:
    """Sentinels are asked one after the other: one that hangs must leave time for the others."""
    share = timeout / (len(target.nodes) + 1)
    options = {"retry": retry, "socket_timeout": share, "socket_connect_timeout": share}
    return replace(target, sentinel_options=target.sentinel_options | options)


class Connection(ABC):
    """A connection that one sender owns. Connects when it is first used, and again after every failure."""

    def __init__(self, target: RedisTarget, timeout: float) -> None:
        self._target = target
        self._timeout = timeout
        # Any, here and below: redis-py's two clients have no type in common, and its types stop short of what is called.
        self._client: Any = None
        #: Of the last exchange: some of its calls may have been executed.
        self.was_sent = False
        self._used: Any = None
        #: Digests of the scripts that the server has run since the connection in use was opened.
        self._known_scripts: set[str] = set()

    @abstractmethod
    async def exchange(self, exchange: Exchange) -> list[Any]:
        """Send calls, and return Redis' answers to them.

        Cancelling closes the connection; the calls may have been executed then.

        Raises:
            RedisError, RedisClusterException, OSError: `was_sent` says whether the calls may have been executed.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close what is open, within the timeout. It may be used again."""

    async def _send(self, exchange: Exchange) -> list[Any]:
        if self._target.is_sharded:
            return await self._send_to_cluster(self._client, exchange)
        return await self._send_to_server(self._client.connection_pool, exchange)

    async def _send_to_server(self, pool: Any, exchange: Exchange) -> list[Any]:
        connection = await _result_of(pool.get_connection())
        try:
            self._track_connection(connection)
            commands = exchange.commands(self._known_scripts)
            self.was_sent = True
            await _result_of(connection.send_packed_command(connection.pack_commands(commands), check_health=False))
            answers = exchange.answers([await _answer(connection) for _ in commands])
        except BaseException:
            await self._drop(connection)
            raise
        finally:
            await _result_of(pool.release(connection))
        self._note_scripts(exchange, answers)
        return answers

    def _track_connection(self, connection: Any) -> None:
        """Note which connection is used.

        redis-py opens one that was lost again without a word, and the server may have been restarted meanwhile.
        """
        if connection is not self._used:
            self._used = connection
            self._known_scripts.clear()
            connection.register_connect_callback(self._forget_scripts)

    def _forget_scripts(self, _connection: Any) -> None:
        self._known_scripts.clear()

    def _note_scripts(self, exchange: Exchange, answers: Sequence[Any]) -> None:
        for call, answer in zip(exchange.batch, answers, strict=True):
            if call.script is not None and isinstance(answer, NoScriptError):
                self._known_scripts.discard(call.script.sha)
            elif call.script is not None and not isinstance(answer, Exception):
                self._known_scripts.add(call.script.sha)

    @abstractmethod
    async def _drop(self, connection: Any) -> None:
        """Close a connection whose answers nobody reads, without waiting."""

    async def _send_to_cluster(self, cluster: Any, exchange: Exchange) -> list[Any]:
        (call,), (command,) = exchange.batch, exchange.own_commands()
        self.was_sent = True
        try:
            answer = await _result_of(cluster.execute_command(*command))
        except ResponseError as error:
            return [error]
        except (AttributeError, KeyError, IndexError) as error:
            # redis-py stumbles over a node that it does not know, for instance where a slot moves to a new one.
            await self.close()
            raise RedisClusterException(f"the cluster has changed: {error!r}") from error
        more = exchange.replica_commands()
        if not more:
            return [answer]
        # No other call is being sent, so the node has one connection: the one that has just been used.
        node = cluster.get_node_from_key(call.keys[0])
        *_, reached = [await _result_of(cluster.execute_command(*each, target_nodes=node)) for each in more]
        return exchange.acknowledged([answer], reached)


async def _result_of(value: Any) -> Any:
    return await value if isawaitable(value) else value


async def _answer(connection: Any) -> Any:
    try:
        return await _result_of(connection.read_response())
    except ResponseError as error:
        return error


class AsyncioConnection(Connection):
    """The connection on an asyncio event loop, or on Trio's bridge to one."""

    def __init__(self, target: RedisTarget, timeout: float, client_name: str) -> None:
        super().__init__(without_retries(target, timeout), timeout)
        self._options = connection_options(timeout, client_name)
        if target.is_sharded:
            # Longer than waiting for replicas takes, and short enough to ask another node when one hangs.
            self._options["socket_timeout"] = 0.6 * timeout

    async def exchange(self, exchange: Exchange) -> list[Any]:
        """See `Connection.exchange`."""
        self.was_sent = False
        if self._client is None:
            self._client = redis_urls.async_client(self._target, **self._options)
        try:
            if self._target.is_sharded:
                async with asyncio.timeout(self._timeout * (1 + len(self._target.nodes))):
                    await self._client.initialize()
            async with asyncio.timeout(self._timeout):
                return await self._send(exchange)
        except TimeoutError:
            raise RedisTimeoutError(f"Redis has not answered within {self._timeout:g} s") from None

    async def _drop(self, connection: Any) -> None:
        await connection.disconnect(nowait=True)

    async def close(self) -> None:
        """See `Connection.close`."""
        client, self._client = self._client, None
        if client is None:
            return
        with suppress(*REDIS_FAILURES):  # it may be gone already
            async with asyncio.timeout(self._timeout):
                await client.aclose()
                if not isinstance(client, AsyncRedisCluster):
                    await redis_urls.close_pool(client.connection_pool)


class BlockingConnection(Connection):
    """The connection of a sender thread: its coroutines never suspend, they block."""

    def __init__(self, target: RedisTarget, timeout: float, client_name: str) -> None:
        # redis-py's own retries would multiply the deadline.
        retry = Retry(NoBackoff(), 0)
        super().__init__(_with_sentinel_options(target, retry, timeout), timeout)
        self._options: dict[str, Any] = {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": retry,
            "client_name": client_name,
        }

    async def exchange(self, exchange: Exchange) -> list[Any]:
        """See `Connection.exchange`."""
        self.was_sent = False
        if self._client is None:
            self._client = redis_urls.sync_client(self._target, **self._options)
        return await self._send(exchange)

    async def _drop(self, connection: Any) -> None:
        connection.disconnect()

    async def close(self) -> None:
        """See `Connection.close`."""
        client, self._client = self._client, None
        if client is None:
            return
        with suppress(*REDIS_FAILURES):  # it may be gone already
            client.close()
            if isinstance(client, redis.Redis) and isinstance(client.connection_pool, SentinelConnectionPool):
                for sentinel in client.connection_pool.sentinel_manager.sentinels:
                    sentinel.close()
