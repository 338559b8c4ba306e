"""The commands that go over the wire for some calls, and which answer belongs to which: one connection, one round trip.

Several calls are one transaction, so that a server which changes its role between two of them (it becomes a replica, or ceases
to be one) takes all or none: a call that is tried again never comes after one that was queued behind it.
"""

from collections.abc import Collection, Sequence
from typing import Any

from redis.exceptions import ResponseError

from relay_client.publishing.call import Call, Command
from relay_client.publishing.queue import DeliveryQueue
from relay_client.redis_errors import NotEnoughReplicas


class Exchange:
    """One attempt at some calls."""

    def __init__(self, queue: DeliveryQueue, batch: Sequence[Call], meta_ms: int) -> None:
        """Prepare the attempt.

        Args:
            queue: The queue that the calls are in.
            batch: The calls.
            meta_ms: How long Redis keeps the numbers of a channel, in milliseconds.
        """
        self.batch = batch
        self._queue = queue
        self._meta_ms = meta_ms
        self._replicas = queue.limits.wait_replicas if any(call.needs_replicas for call in batch) else 0
        self._wait_ms = max(1, int(queue.limits.timeout * 500))

    def replica_commands(self) -> list[Command]:
        """Return the commands that wait for replicas, for the same connection; none when none are waited for."""
        if not self._replicas:
            return []
        # WAIT is about the connection's own last write. A call that comes again may have been executed over an earlier
        # connection, and makes no write on this one.
        writes: list[Command] = [
            ("PEXPIRE", call.keys[0], self._meta_ms)
            for call in self.batch
            if call.needs_replicas and call.may_have_arrived
        ]
        return [*writes[-1:], ("WAIT", self._replicas, self._wait_ms)]

    def own_commands(self, known_scripts: Collection[str] = ()) -> list[Command]:
        """Return the calls' own commands.

        Args:
            known_scripts: Digests of the scripts that the server has run over this connection.
        """
        return self._queue.commands(self.batch, known_scripts)

    def commands(self, known_scripts: Collection[str] = ()) -> list[Command]:
        """Return all commands, for one server; known_scripts: as for `own_commands`.

        All arguments are bytes: hiredis formats other types by calling back into Python, where an exception of a signal handler
        crashes it.
        """
        own = self.own_commands(known_scripts)
        calls = own if len(own) == 1 else [("MULTI",), *own, ("EXEC",)]
        return [tuple(map(_as_bytes, command)) for command in (*calls, *self.replica_commands())]

    def answers(self, raw: Sequence[Any]) -> list[Any]:
        """Return one answer for each call, a value or an error, from those that Redis gave to `commands`."""
        count = len(self.batch)
        answers = [raw[0]] if count == 1 else self._of_transaction(raw[1 : count + 1], raw[count + 1])
        return self.acknowledged(answers, raw[-1]) if self._replicas else answers

    @staticmethod
    def _of_transaction(queued: Sequence[Any], executed: Any) -> list[Any]:
        if isinstance(executed, Exception):
            return [answer if isinstance(answer, Exception) else executed for answer in queued]
        return list(executed)

    def acknowledged(self, answers: Sequence[Any], reached: Any) -> list[Any]:
        """Return the answers, or errors where too few replicas have the write; reached: Redis' answer to WAIT."""
        if isinstance(reached, ResponseError):
            lacking: Exception = reached
        elif int(reached) < self._replicas:
            lacking = NotEnoughReplicas(f"{reached} replicas have it, not {self._replicas}")
        else:
            return list(answers)
        return [
            lacking if call.needs_replicas and not isinstance(answer, Exception) else answer
            for call, answer in zip(self.batch, answers, strict=True)
        ]


def _as_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
