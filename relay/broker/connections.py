"""Connections to one Redis server: batches of commands, and connections for subscriptions.

Everything here is asyncio and runs on redis-py's side of the bridge. Commands are packed by hiredis and written at once:
redis-py's own pipelines pack in Python, which costs six times as much, and those of its cluster client do not keep order.
"""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

from hiredis import PushNotification, pack_command
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from relay_wire.publications import ScriptCall
from relay_wire.redis_urls import close_pool
from relay_wire.scripts import Script

from relay.broker.reply_reader import MALFORMED, NOT_YET, malformed_reply, next_buffered_reply, write

#: A Redis command and its arguments.
Command = Sequence[Any]


class Server:
    """One Redis server.

    Its connections are never closed while they are in use: redis-py would raise whatever it happens upon.
    """

    def __init__(self, name: str, pool: ConnectionPool, subscriber_pool: ConnectionPool) -> None:
        """Make a server; it connects when it is used.

        Args:
            name: How logs name it.
            pool: Connections for commands.
            subscriber_pool: Makes the connections for subscriptions.
        """
        self.name = name
        self._pool = pool
        self._subscriber_pool = subscriber_pool
        self._loaded: set[str] = set()
        self._free_connections = asyncio.Semaphore(pool.max_connections)
        self._users = 0
        self._is_closing = False

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands, in order, in one round trip. Waits for its turn while all connections are in use.

        Cancelling closes the connection; commands may have been carried out then.

        Returns:
            The answers, with an error in place of a refused command's.

        Raises:
            RedisError: The connection failed; commands may have been carried out.
            OSError: The same.
        """
        self._users += 1
        try:
            return await self._exchange(commands)
        finally:
            await self._leave()

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        async with self._free_connections:
            connection = await _connection_of(self._pool)
            try:
                await write(connection, b"".join([pack_command(tuple(command)) for command in commands]))
                return await self._answers(connection, len(commands))
            except MALFORMED as error:
                await connection.disconnect(nowait=True)
                raise malformed_reply(error) from error
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            finally:
                await self._pool.release(connection)

    @staticmethod
    async def _answers(connection: AbstractConnection, count: int) -> list[Any]:
        take = next_buffered_reply(connection)
        answers: list[Any] = []
        while len(answers) < count:
            try:
                # The deadline is the whole call's; one for each answer would cost more than the answer.
                answers.append(await connection.read_response(timeout=math.inf, disconnect_on_error=False))
            except ResponseError as error:
                answers.append(error)
            while len(answers) < count and (reply := take()) is not NOT_YET:
                if isinstance(reply, RedisConnectionError):  # it is loading, for one
                    raise reply
                if not isinstance(reply, PushNotification):  # none of these was asked for
                    answers.append(reply)
        return answers

    async def run_calls(self, calls: Sequence[ScriptCall], replicas: int = 0, wait: float = 0.0) -> list[Any]:
        """Run scripts, in order, in one round trip, or two if the server does not know them.

        Args:
            calls: The calls.
            replicas: So many replicas must have the writes, or every answer is a TimeoutError.
            wait: Seconds within which they must have them.

        Returns:
            The answers, with an error in place of a refused call's.

        Raises:
            RedisError: As for `exchange`.
            OSError: As for `exchange`.
        """
        if not replicas:
            return await self._run_loaded(calls, [])
        *answers, reached = await self._run_loaded(calls, [("WAIT", replicas, max(1, int(wait * 1000)))])
        if not isinstance(reached, int) or reached < replicas:
            return [RedisTimeoutError(f"{reached} replicas have it, not {replicas}")] * len(answers)
        return answers

    async def _run_loaded(self, calls: Sequence[ScriptCall], more: Sequence[Command]) -> list[Any]:
        commands: list[Command] = [
            ("EVALSHA", script.sha, len(names), *names, *values) for script, names, values in calls
        ]
        commands += more
        needed: dict[Script, None] = dict.fromkeys(call.script for call in calls)
        answers: list[Any] = []
        if all(script.sha in self._loaded for script in needed):
            answers = await self.exchange(commands)
            missing = [place for place, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            if not missing:
                return answers
            # The server was restarted, or is another one now: it knows none of the scripts.
            answers = answers[: missing[0]]
        # In one pipeline: no call overtakes another for want of its script.
        loads = [("SCRIPT", "LOAD", script.source) for script in needed]
        loaded_and_rest = await self.exchange([*loads, *commands[len(answers) :]])
        for script, answer in zip(needed, loaded_and_rest, strict=False):
            if not isinstance(answer, Exception):
                self._loaded.add(script.sha)
        return answers + loaded_and_rest[len(loads) :]

    async def connect(self) -> AbstractConnection:
        """Return a connection for a subscription, to be closed by `discard`.

        Raises:
            RedisError: The server cannot be reached, or refuses.
            OSError: The same.
        """
        self._users += 1
        try:
            return await _connection_of(self._subscriber_pool)
        except BaseException:
            await self._leave()
            raise

    async def discard(self, connection: AbstractConnection) -> None:
        """Close a subscription's connection."""
        try:
            await connection.disconnect(nowait=True)
            await self._subscriber_pool.release(connection)
        finally:
            await self._leave()

    async def close(self) -> None:
        """Close all connections; those in use are closed when their users are done with them."""
        self._is_closing = True
        if not self._users:
            await self._close_pools()

    async def _leave(self) -> None:
        self._users -= 1
        if self._is_closing and not self._users:
            await self._close_pools()

    async def _close_pools(self) -> None:
        await close_pool(self._subscriber_pool)
        await close_pool(self._pool)


async def _connection_of(pool: ConnectionPool) -> AbstractConnection:
    """Return a connected connection.

    Raises:
        RedisError: The server, or a Sentinel, cannot be reached, refuses, or sends what is no reply.
        OSError: The same.
    """
    try:
        return await pool.get_connection()  # type: ignore[no-any-return, no-untyped-call]
    except (RedisError, OSError):
        raise
    except Exception as error:
        raise malformed_reply(error) from error
