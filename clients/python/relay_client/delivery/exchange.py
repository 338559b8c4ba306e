"""What goes over the wire for some calls, and which answer is whose: on one connection, in one round trip.

Several calls are one transaction, so that a server which changes its mind between two of them (it becomes a replica, or ceases
to be one) takes all or none: what is tried again never comes after what was sent behind it.
"""

from collections.abc import Sequence
from typing import Any

from redis.exceptions import ResponseError
from relay_wire.redis_urls import RedisTarget

from relay_client.delivery.call import Call, Command
from relay_client.delivery.line import Line, NotEnoughReplicas


def sentinel_options(target: RedisTarget, retry: object, timeout: float) -> dict[str, Any]:
    """For the connections to Sentinels, of which each is asked in its turn: redis-py gives each as much time as the server."""
    share = timeout / (len(target.nodes) + 1)
    return {"retry": retry, "socket_timeout": share, "socket_connect_timeout": share}


class Exchange:
    """One attempt for some calls. meta_ms: how long the numbers of a channel are kept, in milliseconds."""

    def __init__(self, line: Line, batch: Sequence[Call], meta_ms: int) -> None:
        self.batch = batch
        self._words = line.commands(batch)
        self._meta_ms = meta_ms
        self._replicas = line.bounds.wait_replicas if any(call.waits for call in batch) else 0
        self._wait_ms = max(1, int(line.bounds.timeout * 500))

    @property
    def words(self) -> Sequence[Command]:
        """The calls' own commands."""
        return self._words

    def waiting(self) -> list[Command]:
        """The commands that wait for replicas, for the same connection; none when none are waited for."""
        if not self._replicas:
            return []
        # WAIT is about the connection's own last write. A call that comes again may have been carried out over an earlier
        # connection, and makes no write on this one.
        writes: list[Command] = [
            ("PEXPIRE", call.keys[0], self._meta_ms) for call in self.batch if call.waits and call.at_risk
        ]
        return [*writes[-1:], ("WAIT", self._replicas, self._wait_ms)]

    def commands(self) -> list[Command]:
        """All of them, for one server."""
        calls = self._words if len(self._words) == 1 else [("MULTI",), *self._words, ("EXEC",)]
        return [*calls, *self.waiting()]

    def answers(self, raw: Sequence[Any]) -> list[Any]:
        """One answer for each call, of those that Redis gave to `commands`: a value or an error."""
        count = len(self._words)
        answers = [raw[0]] if count == 1 else self._of_transaction(raw[1 : count + 1], raw[count + 1])
        return self.acknowledged(answers, raw[-1]) if self._replicas else answers

    @staticmethod
    def _of_transaction(queued: Sequence[Any], executed: Any) -> list[Any]:
        if isinstance(executed, Exception):
            return [answer if isinstance(answer, Exception) else executed for answer in queued]
        return list(executed)

    def acknowledged(self, answers: Sequence[Any], reached: Any) -> list[Any]:
        """The answers, once so many replicas are reached; reached: the answer to WAIT."""
        if isinstance(reached, ResponseError):
            lacking: Exception = reached
        elif int(reached) < self._replicas:
            lacking = NotEnoughReplicas(f"{reached} replicas have it, not {self._replicas}")
        else:
            return list(answers)
        return [
            lacking if call.waits and not isinstance(answer, Exception) else answer
            for call, answer in zip(self.batch, answers, strict=True)
        ]
