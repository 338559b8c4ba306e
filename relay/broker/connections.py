"""Connections to one Redis server: batches of commands, and connections for subscriptions.

Everything here is asyncio and runs on redis-py's side of the bridge. Commands are packed by hiredis and written at once:
redis-py's own pipelines pack in Python, which costs six times as much, and those of its cluster client do not keep order.
"""

import asyncio
import math
from collections.abc import Coroutine, Sequence
from typing import Any
from weakref import WeakSet

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
        #: Digests of the scripts that the server knows.
        self._loaded: set[str] = set()
        #: Connections for commands that say when they connect again.
        self._tracked: WeakSet[AbstractConnection] = WeakSet()
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
        return await self._use(self._exchange(commands))

    async def _use(self, exchange: Coroutine[Any, Any, list[Any]]) -> list[Any]:
        self._users += 1
        try:
            return await exchange
        finally:
            await self._leave()

    async def _exchange(self, commands: Sequence[Command], scripts: Sequence[Script] = ()) -> list[Any]:
        """Run commands, before them on the same connection ``SCRIPT LOAD`` for scripts that the server may not know."""
        async with self._free_connections:
            connection = await _connection_of(self._pool)
            try:
                self._track(connection)
                new = [script for script in scripts if script.sha not in self._loaded]
                loads: list[Command] = [("SCRIPT", "LOAD", script.source) for script in new]
                await write(connection, b"".join([pack_command(tuple(command)) for command in (*loads, *commands)]))
                answers = await self._answers(connection, len(loads) + len(commands))
            except MALFORMED as error:
                await connection.disconnect(nowait=True)
                raise malformed_reply(error) from error
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            finally:
                await self._pool.release(connection)
        self._loaded.update(
            script.sha for script, answer in zip(new, answers, strict=False) if not isinstance(answer, Exception)
        )
        return answers[len(new) :]

    def _track(self, connection: AbstractConnection) -> None:
        """Forget what the server knows whenever a connection is new: it was restarted, perhaps, or is another one now."""
        if connection not in self._tracked:
            self._tracked.add(connection)
            connection.register_connect_callback(self._forget_scripts)  # type: ignore[no-untyped-call]
            self._loaded.clear()

    def _forget_scripts(self, _connection: AbstractConnection) -> None:
        self._loaded.clear()

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
        """Run scripts, in order, in one round trip, or two if the server has forgotten them. Each is carried out once at most.

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
        answers = await self._run_once(calls, replicas, wait)
        missing = [place for place, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if missing:
            # Somebody has made the server forget scripts, and others may have loaded some of them again. These calls were not
            # carried out. All others were, and must not be once more.
            self._loaded.clear()
            again = await self._run_once([calls[place] for place in missing], replicas, wait)
            for place, answer in zip(missing, again, strict=True):
                answers[place] = answer
        return answers

    async def _run_once(self, calls: Sequence[ScriptCall], replicas: int, wait: float) -> list[Any]:
        commands: list[Command] = [
            ("EVALSHA", script.sha, len(names), *names, *values) for script, names, values in calls
        ]
        if replicas:
            commands.append(("WAIT", replicas, max(1, int(wait * 1000))))
        # In one pipeline: no call overtakes another for want of its script.
        answers = await self._use(self._exchange(commands, tuple(dict.fromkeys(call.script for call in calls))))
        if not replicas:
            return answers
        reached = answers.pop()
        if isinstance(reached, int) and reached >= replicas:
            return answers
        error = RedisTimeoutError(f"{reached} replicas have it, not {replicas}")
        return [answer if isinstance(answer, Exception) else error for answer in answers]

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
