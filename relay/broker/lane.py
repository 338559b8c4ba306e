"""A connection of its own for short scripts that must not wait: written at once, and read by Trio.

By the pool and over the bridge a command takes two dozen turns of the event loop. What goes wrong here is not seen to here: the
connection is closed, and whoever asked tries the other way.
"""

from collections.abc import Sequence
from typing import Any

import trio
import trio_asyncio
from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError
from relay_wire.scripts import Script

from relay.broker.connections import Server
from relay.broker.stream import NOT_YET, ReplyStream

_READ_BYTES = 64 * 1024


class Lane:
    """Runs scripts on one server, for one caller at a time.

    deadline: seconds within which it answers
    """

    def __init__(self, server: Server, loop: trio_asyncio.TrioEventLoop, deadline: float) -> None:
        self._server = server
        self._loop = loop
        self._deadline = deadline
        self._connection: AbstractConnection | None = None
        self._stream: ReplyStream | None = None
        self._loaded: set[str] = set()
        #: Over TLS there is no such way.
        self.is_possible = True

    async def run_script(self, script: Script, calls: Sequence[tuple[list[str], list[Any]]]) -> list[Any]:
        """Run a script several times, in order, in one round trip; the answers, with an error in place of a refused one's.

        Raises RedisError, OSError or trio.TooSlowError when the connection fails or is too slow; calls may have been
        carried out then. Cancelling closes it.
        """
        source, sha = script
        # On the same connection, before its first use.
        try:
            with trio.fail_after(self._deadline):
                stream = self._stream or await self._open()
                load = [] if sha in self._loaded else [("SCRIPT", "LOAD", source)]
                commands = [*load, *(("EVALSHA", sha, len(names), *names, *values) for names, values in calls)]
                self._write(b"".join([pack_command(command) for command in commands]))
                answers: list[Any] = []
                while len(answers) < len(commands):
                    await stream.receive()
                    while (answer := stream.take()) is not NOT_YET:
                        if isinstance(answer, RedisError) and not isinstance(answer, ResponseError):
                            raise answer
                        answers.append(answer)
        except BaseException:
            await self.close()
            raise
        self._loaded.add(sha)
        return answers[len(load) :]

    def _write(self, data: bytes) -> None:
        writer: Any = self._connection._writer if self._connection is not None else None
        writer.transport.write(data)

    async def _open(self) -> ReplyStream:
        self._connection = await self._loop.run_aio_coroutine(self._server.connect())
        self._stream = await self._loop.run_aio_coroutine(ReplyStream.of(self._connection, _READ_BYTES))
        if self._stream is None:
            self.is_possible = False
            raise RedisError("this connection has to be read by asyncio")
        return self._stream

    async def close(self) -> None:
        """Close the connection; the next call opens another one."""
        stream, self._stream = self._stream, None
        connection, self._connection = self._connection, None
        self._loaded.clear()
        if stream is not None:
            stream.close()
        if connection is not None:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self._deadline):
                await self._loop.run_aio_coroutine(self._server.discard(connection))
