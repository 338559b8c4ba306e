"""Commands and scripts for Trio code: over the bridge, to the right server, within a deadline, with Relay's own errors."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import trio
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from relay_wire import publications
from relay_wire.creation import NOT_OWNER, PARENT_FIXED
from relay_wire.publications import ScriptCall
from relay_wire.trio_bridge import trio_asyncio

from relay.broker.calls_in_turn import run_in_turn
from relay.broker.connections import Server
from relay.broker.dedicated_connection import DedicatedConnection
from relay.broker.reply_reader import malformed_reply
from relay.broker.server_usage import ServerUsage
from relay.broker.topology import Servers
from relay.core.errors import BrokerError, BrokerRefused, BrokerUnavailable, StateTooLarge, UpdateConflict

_T = TypeVar("_T")

#: How often a call follows a cluster's redirections before it fails.
_REDIRECTIONS = 4

#: Errors that pass: the same call may succeed later.
_UNAVAILABLE_ERRORS = (
    BusyLoadingError,
    ReadOnlyError,
    ClusterDownError,
    MovedError,
    AskError,
    TryAgainError,
    MasterDownError,
)

#: The same, for which redis-py has no classes: a script that runs on, replicas that are missing.
_UNAVAILABLE_TEXTS = ("BUSY ", "NOREPLICAS ")


#: Refusals of the scripts, by their first words, and what clients know them as.
_CONFLICTS = {PARENT_FIXED: "parent_fixed", NOT_OWNER: "forbidden", publications.APPEND_TYPE: "append_mismatch"}


def translated(error: Exception) -> BrokerError:
    """Return a redis-py error as one of Relay's."""
    text = str(error)
    if isinstance(error, RedisConnectionError | RedisTimeoutError | OSError):
        return BrokerUnavailable(f"Redis cannot be reached: {text}")
    if isinstance(error, _UNAVAILABLE_ERRORS) or text.startswith(_UNAVAILABLE_TEXTS):
        return BrokerUnavailable(f"Redis is not ready: {text}")
    if text.startswith(publications.KEY_REUSED):
        return UpdateConflict(
            "idempotency_key_reused", "this idempotency key was used for another update; choose a new key"
        )
    for prefix, code in _CONFLICTS.items():
        if text.startswith(prefix):
            return UpdateConflict(code, text.removeprefix(prefix).strip().partition(" script: ")[0])
    if text.startswith(publications.STATE_TOO_LARGE):
        return StateTooLarge(text.removeprefix(publications.STATE_TOO_LARGE).strip().partition(" script: ")[0])
    return BrokerRefused(f"Redis refused: {text}", is_out_of_memory=isinstance(error, OutOfMemoryError))


def _translated_answer(answer: Any) -> Any:
    """Return an answer with errors of Relay's in place of redis-py's, also where a script has answered with several."""
    if isinstance(answer, Exception):
        return translated(answer)
    if type(answer) is list:
        return [translated(each) if isinstance(each, Exception) else each for each in answer]
    return answer


def _is_not_ready(answer: Any) -> bool:
    """Whether an answer, or one of the answers of a script to several, says that another server or a later time may do."""
    if type(answer) is list:
        return any(isinstance(each, _UNAVAILABLE_ERRORS) for each in answer)
    return isinstance(answer, (*_UNAVAILABLE_ERRORS, NoScriptError))


class Commands:
    """Runs commands and scripts on one set of servers, for any number of tasks at once."""

    def __init__(
        self, servers: Servers, loop: trio_asyncio.TrioEventLoop, timeout: float, on_failure: Callable[[], None]
    ) -> None:
        """Make it; the first call connects.

        Args:
            servers: Where commands go.
            loop: Where redis-py runs.
            timeout: Seconds within which each call ends.
            on_failure: Called when a server has failed: another one may have its place now.
        """
        self._servers = servers
        self._loop = loop
        self._timeout = timeout
        self._on_failure = on_failure
        self._is_stale = True

    async def command(self, *command: Any, key: str | None = None) -> Any:
        """Run one command. Cancelling ends it at once.

        Args:
            command: The command and its arguments.
            key: The key that says which server it goes to; any server without one.

        Raises:
            BrokerUnavailable: No answer within the deadline; the command may have been carried out.
            BrokerRefused: Redis answered with an error.
        """

        async def run() -> Any:
            await self._ensure_topology()
            server = self._servers.any() if key is None else self._servers.of(key)
            (answer,) = await server.exchange([command])
            return answer

        answer = await self._within_deadline(run)
        if isinstance(answer, Exception):
            raise translated(answer)
        return answer

    async def count_subscribers(self, redis_channel: str) -> int:
        """Return how many connections have subscribed to a plain channel, on all servers.

        Raises:
            BrokerUnavailable: Not all servers answer within the deadline.
            BrokerRefused: A server answered with an error.
        """

        async def run() -> int:
            await self._ensure_topology()
            count = 0
            for server in self._servers.all():
                (answer,) = await server.exchange([("PUBSUB", "NUMSUB", redis_channel)])
                if isinstance(answer, Exception):
                    raise answer
                if not (isinstance(answer, list) and len(answer) == 2 and isinstance(answer[1], int)):
                    raise malformed_reply(answer)
                count += answer[1]
            return count

        return await self._within_deadline(run)

    async def read_usage(self) -> dict[str, ServerUsage]:
        """Return the usage of each server that takes writes, by its name.

        A node of a cluster that does not answer is left out.

        Raises:
            BrokerUnavailable: No server answers within the deadline.
            BrokerRefused: Redis may not be asked.
        """
        usage: dict[str, ServerUsage] = {}
        failures: list[Exception] = []

        async def ask(server: Server) -> None:
            try:
                async with asyncio.timeout(self._timeout * 0.9):
                    (answer,) = await server.exchange([("INFO",)])
            except (RedisError, OSError) as error:
                failures.append(error)
                return
            if isinstance(answer, bytes):
                usage[server.name] = ServerUsage.parse(answer.decode(errors="replace"))
            else:
                failures.append(answer if isinstance(answer, Exception) else malformed_reply(answer))

        async def run() -> None:
            await self._ensure_topology()
            async with asyncio.TaskGroup() as group:
                for server in self._servers.all():
                    group.create_task(ask(server))

        await self._within_deadline(run)
        if failures and not usage:
            raise translated(failures[0])
        return usage

    async def run_calls(self, calls: Sequence[ScriptCall], replicas: int = 0) -> list[Any]:
        """Run scripts in one round trip, in order for each server.

        Args:
            calls: The calls.
            replicas: So many replicas must have the writes too, or the answers are BrokerUnavailable.

        Returns:
            The answers, with a BrokerError in place of a failed call's.

        Raises:
            BrokerUnavailable: No Redis can be reached; any of the calls may have been carried out.
        """
        answers: list[Any] = [None] * len(calls)

        async def run() -> None:
            await self._ensure_topology()
            left = list(range(len(calls)))
            for attempt in range(_REDIRECTIONS):
                if attempt:
                    await asyncio.sleep(0.05 * attempt)
                    await self._servers.refresh()
                await self._run_on_servers(calls, left, answers, replicas)
                # The cluster has moved their keys, or is about to.
                left = [place for place in left if isinstance(answers[place], MovedError | AskError | TryAgainError)]
                if not left:
                    return
                self._invalidate_topology()

        await self._within_deadline(run)
        return [_translated_answer(answer) for answer in answers]

    async def run_calls_on(self, connection: DedicatedConnection, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run scripts as `run_calls` does, on a connection of the caller's own where that is possible.

        Calls may run twice, and never one before an earlier one that Redis was not ready for when it was repeated.
        """
        if not connection.is_possible:
            return await self.run_calls(calls)
        try:
            answers = await connection.run_calls(calls)
        except trio.TooSlowError:
            raise BrokerUnavailable(f"Redis did not answer within {self._timeout:g} s") from None
        except (RedisError, OSError):
            return await run_in_turn(self.run_calls, calls)
        if any(map(_is_not_ready, answers)):
            await connection.close()
            return await run_in_turn(self.run_calls, calls)
        return [_translated_answer(answer) for answer in answers]

    async def _run_on_servers(
        self, calls: Sequence[ScriptCall], places: list[int], answers: list[Any], replicas: int
    ) -> None:
        groups: dict[Server, list[int]] = {}
        for place in places:
            groups.setdefault(self._servers.of(calls[place].keys[0]), []).append(place)

        async def run(server: Server, own: list[int]) -> None:
            some = [calls[place] for place in own]
            for place, answer in zip(own, await server.run_calls(some, replicas, self._timeout / 2), strict=True):
                answers[place] = answer

        if len(groups) == 1:
            await run(*groups.popitem())
            return

        async def run_or_keep_error(server: Server, own: list[int]) -> None:
            """One node that does not answer must not take the others' answers with it."""
            try:
                async with asyncio.timeout(self._timeout * 0.9):
                    await run(server, own)
            except (RedisError, OSError) as error:
                self._invalidate_topology()
                for place in own:
                    answers[place] = error

        async with asyncio.TaskGroup() as group:
            for server, own in groups.items():
                group.create_task(run_or_keep_error(server, own))

    def _invalidate_topology(self) -> None:
        self._is_stale = True
        self._on_failure()

    async def _ensure_topology(self) -> None:
        """Find out where to go, at first, and once when a server has failed. Runs in asyncio's context."""
        if self._is_stale:
            self._is_stale = False
            await self._servers.refresh()

    async def _within_deadline(self, run: Callable[[], Awaitable[_T]]) -> _T:
        try:
            with trio.fail_after(self._timeout):
                return await self._loop.run_aio_coroutine(run())  # type: ignore[no-any-return]
        except trio.TooSlowError:
            self._invalidate_topology()
            raise BrokerUnavailable(f"Redis did not answer within {self._timeout:g} s") from None
        except (RedisError, OSError) as error:
            self._invalidate_topology()
            raise translated(error) from error
