"""A connection of its own for short scripts that must not wait: written at once, and read by Trio.

With the pool and the bridge a command takes two dozen turns of the event loop. Failures are not handled here: the connection is
closed, and the caller tries the other way.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import trio
from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError
from relay_wire.publications import ScriptCall
from relay_wire.scripts import Script
from relay_wire.trio_bridge import trio_asyncio

from relay.broker.connections import Server
from relay.broker.reply_reader import MALFORMED, NOT_YET, ReplyReader, malformed_reply

_READ_BYTES = 64 * 1024


class DedicatedConnection:
    """Runs scripts on one server, for one caller at a time.

    Attributes:
        is_possible: Whether it can be used; not over TLS, which is known after the first call.
    """

    def __init__(self, server: Server, loop: trio_asyncio.TrioEventLoop, deadline: float) -> None:
        """Make one; the first call connects.

        Args:
            server: The server.
            loop: Where redis-py connects.
            deadline: Seconds within which the server has to answer.
        """
        self._server = server
        self._loop = loop
        self._deadline = deadline
        self._open: tuple[AbstractConnection, ReplyReader] | None = None
        self._loaded: set[str] = set()
        self._started: Sequence[ScriptCall] = ()
        self._answers: list[Any] = []  # those that are there, of the calls that are under way
        self._is_broken = False
        self.is_possible = True

    def start(self, calls: Sequence[ScriptCall]) -> bool:
        """See `ImmediateCalls`. The connection must be open, and know the scripts."""
        if self._open is None or self._started or self._is_broken:
            return False
        if not all(call.script.sha in self._loaded for call in calls):
            return False
        self._write(self._open[0], map(_command, calls))
        self._started = calls
        return True

    def poll(self) -> Sequence[Any] | None:
        """See `ImmediateCalls`."""
        if self._open is None or not self._started:
            self._started = ()
            raise RedisError("nothing was started on this connection")
        reader = self._open[1]
        try:
            if not reader.receive_nowait() or not self._take_answers(reader, len(self._started)):
                return None
        except (RedisError, OSError, *MALFORMED) as error:
            self._started, self._is_broken = (), True
            if isinstance(error, MALFORMED):
                raise malformed_reply(error) from error
            raise
        answers, self._started, self._answers = self._answers, (), []
        for answer in answers:
            for each in answer if type(answer) is list else (answer,):
                if isinstance(each, RedisError):
                    raise each
        return answers

    async def run_calls(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run scripts, in order, in one round trip. Those that were started are waited for.

        Cancelling closes the connection; the calls may have been carried out then.

        Returns:
            The answers, with an error in place of a refused call's.

        Raises:
            RedisError: The connection failed; the calls may have been carried out.
            OSError: The same.
            trio.TooSlowError: The deadline has passed; the calls may have been carried out.
        """
        try:
            with trio.fail_after(self._deadline):
                if self._is_broken or (self._started and self._started is not calls):
                    raise RedisError("the connection has answers to other calls")
                connection, reader = self._open or await self._connect()
                new: list[Script] = []
                if self._started is not calls:
                    # All: should Redis have forgotten the others meanwhile, no call overtakes another for want of its script.
                    needed = list(dict.fromkeys(call.script for call in calls))
                    new = [] if all(script.sha in self._loaded for script in needed) else needed
                    self._write(
                        connection, [*(("SCRIPT", "LOAD", script.source) for script in new), *map(_command, calls)]
                    )
                    self._answers = []
                while not self._take_answers(reader, len(new) + len(calls)):
                    await reader.receive()
        except MALFORMED as error:
            await self.close()
            raise malformed_reply(error) from error
        except BaseException:
            await self.close()
            raise
        self._loaded.update(script.sha for script in new)
        answers, self._started, self._answers = self._answers, (), []
        return answers[len(new) :]

    @staticmethod
    def _write(connection: AbstractConnection, commands: Iterable[tuple[Any, ...]]) -> None:
        writer: Any = connection._writer
        writer.transport.write(b"".join([pack_command(command) for command in commands]))

    def _take_answers(self, reader: ReplyReader, count: int) -> bool:
        """Take the answers that were read. Returns whether all are there. Raises RedisError if they are none, or too many."""
        answers = self._answers
        while (answer := reader.next_reply()) is not NOT_YET:
            if isinstance(answer, RedisError) and not isinstance(answer, ResponseError):
                raise answer
            answers.append(answer)
        if len(answers) > count:
            raise malformed_reply(answers[-1])
        return len(answers) == count

    async def _connect(self) -> tuple[AbstractConnection, ReplyReader]:
        connection = await self._loop.run_aio_coroutine(self._server.connect())
        try:
            reader = await self._loop.run_aio_coroutine(ReplyReader.open(connection, _READ_BYTES))
            if reader is None:
                self.is_possible = False
                raise RedisError("only asyncio can read this connection")
        except BaseException:
            await self._discard(connection)
            raise
        self._open = connection, reader
        return self._open

    async def _discard(self, connection: AbstractConnection) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self._deadline):
            await self._loop.run_aio_coroutine(self._server.discard(connection))

    async def close(self) -> None:
        """Close the connection; the next call opens another one. Takes as long as the deadline at most, even if cancelled."""
        was_open, self._open = self._open, None
        self._loaded.clear()
        self._started, self._answers, self._is_broken = (), [], False
        if was_open is not None:
            connection, reader = was_open
            reader.close()
            await self._discard(connection)


def _command(call: ScriptCall) -> tuple[Any, ...]:
    script, names, values = call
    return ("EVALSHA", script.sha, len(names), *names, *values)
