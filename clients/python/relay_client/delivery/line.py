"""The line in which calls wait for Redis: their order, its bounds, what is tried again, when, and for how long.

It does no I/O and has no clock: it is told what the time is. Whoever has calls in it puts them, and then, one at a time (the
shells see to that), carries out for everybody what is first in line, until its own are settled:

    put -> { pause -> take -> (exchange with Redis) -> answered | failed } until all are settled

The order of the line is kept through every failure: nothing overtakes a call that is to be tried again. A call leaves the line
when Redis has acknowledged or refused it, at its deadline, or when its caller is cancelled.
"""

import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterError,
    ExecAbortError,
    MasterDownError,
    MovedError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from relay_wire.publications import IDEMPOTENCY_TTL_MS

from relay_client.delivery.call import Call, Command
from relay_client.errors import BufferFull, DeliveryRefused, DeliveryTimedOut, NotDelivered, PublisherClosed

_log = logging.getLogger("relay_client")

#: What an exchange with Redis may raise. redis-py's RedisClusterException is no RedisError.
REDIS_FAILURES = (RedisError, RedisClusterException, OSError)

#: Worth another try: Redis is away, begins, ends, or hands over. AskError's family is about slots that move.
_PASSING = (
    RedisConnectionError,
    RedisTimeoutError,
    OSError,
    ReadOnlyError,
    MasterDownError,
    ClusterError,
    RedisClusterException,
    MovedError,
    AskError,
    TryAgainError,
)

#: The same, which redis-py has no classes for: a script that runs too long, too few replicas for a write, and a slot that is on
#: its way to another node, where the publish script makes a key of its own.
_PASSING_TEXTS = ("BUSY ", "NOREPLICAS ", "non local key in a cluster node")

#: Connection errors that will not mend themselves.
_LASTING = (AuthenticationError, AuthorizationError)

#: One exchange: enough that a round trip does not count, and so little that Redis is not held up.
_MOST_CALLS = 128
_MOST_BYTES = 1 << 20

#: Failures kept for the caller of ``flush()``; more are counted.
_MOST_FAILURES = 100

#: A deadline must end well before Redis forgets the keys by which it recognises an update that comes again.
MOST_SECONDS = IDEMPOTENCY_TTL_MS / 1000 / 2


class NotEnoughReplicas(RedisTimeoutError):
    """Redis has it, and fewer replicas than were asked for."""


def is_passing(error: BaseException) -> bool:
    """The same call may succeed a little later."""
    if isinstance(error, ResponseError) and any(text in str(error) for text in _PASSING_TEXTS):
        return True
    return isinstance(error, _PASSING) and not isinstance(error, _LASTING)


def backoff(attempt: int, most: float = 1.0) -> float:
    """Seconds before a try, after the attempt-th in a row that failed (from 0): the first at once, since most often the
    connection was only an old one; then full jitter, up to `most`."""
    return random.uniform(0.0, min(most, 0.05 * 2.0 ** min(attempt, 10))) if attempt else 0.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of a line.

    deadline:          seconds for which a call is tried; 150 at most
    timeout:           seconds for one try, from connecting to the answer
    max_waiting:       calls that may wait
    max_waiting_bytes: and their bytes
    wait_replicas:     replicas that must have an update before it counts as delivered
    """

    deadline: float = 15.0
    timeout: float = 2.0
    max_waiting: int = 1000
    max_waiting_bytes: int = 16 << 20
    wait_replicas: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.deadline <= MOST_SECONDS:
            raise ValueError(f"deadline must be over 0 and at most {MOST_SECONDS:g} s, not {self.deadline!r}")
        if not 0 < self.timeout <= self.deadline:
            raise ValueError(f"timeout must be over 0 s and at most the deadline, not {self.timeout!r}")
        if self.max_waiting < 1 or self.max_waiting_bytes < 1:
            raise ValueError("max_waiting and max_waiting_bytes must be at least 1")
        if self.wait_replicas < 0:
            raise ValueError("wait_replicas must not be negative")


class Line:
    """The calls of one publisher. Times are those of one monotonic clock, in seconds. Not for several threads at once."""

    def __init__(self, bounds: Bounds, most_at_once: int = _MOST_CALLS) -> None:
        self.bounds = bounds
        self._most_at_once = most_at_once
        self._queue: deque[Call] = deque()
        self._waiting = 0
        self._bytes = 0
        self._failures_in_a_row = 0
        self._not_before = 0.0
        self._unknown_scripts: set[str] = set()
        self._last_error: Exception | None = None
        self._lost: list[NotDelivered] = []
        self._lost_count = 0
        self._news: list[tuple[str, NotDelivered]] = []
        self.is_closed = False

    @property
    def waiting(self) -> int:
        """Calls that are not settled."""
        return self._waiting

    def unsettled(self) -> list[Call]:
        """Those calls, in order."""
        return [call for call in self._queue if not call.is_settled]

    def put(self, calls: Sequence[Call], now: float, within: float | None = None, *, posted: bool = False) -> None:
        """Add calls, all or none. within: their deadline, where it is not the line's. posted: nobody waits for them.

        Raises BufferFull or PublisherClosed.
        """
        if self.is_closed:
            raise PublisherClosed("this publisher is closed", calls[0].channel)
        size = sum(call.size for call in calls)
        bounds = self.bounds
        if self._waiting + len(calls) > bounds.max_waiting or self._bytes + size > bounds.max_waiting_bytes:
            raise BufferFull(
                f"{self._waiting} updates ({self._bytes} bytes) wait for Redis already"
                f"{f': {self._last_error}' if self._last_error and self._failures_in_a_row else ''}",
                calls[0].channel,
            )
        if not self._waiting:
            self._not_before = now  # whatever was before: this may be another time
        for call in calls:
            call.within = bounds.deadline if within is None else min(within, bounds.deadline)
            call.deadline = now + call.within
            call.is_posted = posted
            self._queue.append(call)
        self._waiting += len(calls)
        self._bytes += size

    def pause(self, now: float) -> float:
        """Seconds until the next try is due."""
        return max(0.0, self._not_before - now)

    def take(self, now: float) -> list[Call]:
        """The calls to send now; they stay in line. Empty when none is left."""
        self._forget_settled()
        batch: list[Call] = []
        size = 0
        for call in self._queue:
            if call.is_settled:
                continue
            if now >= call.deadline:
                self._time_out(call)
                continue
            size += call.size
            if batch and (len(batch) == self._most_at_once or size > _MOST_BYTES):
                break
            batch.append(call)
        return batch

    def commands(self, batch: Sequence[Call]) -> list[Command]:
        """What to send for them: scripts that the server did not know are spelled out once."""
        unknown, self._unknown_scripts = self._unknown_scripts, set()
        words = []
        for call in batch:
            spell_out = call.script is not None and call.script.sha in unknown
            words.append(call.words(spell_out))
            if spell_out and call.script is not None:
                unknown.discard(call.script.sha)
        return words

    def answered(self, batch: Sequence[Call], answers: Sequence[Any], now: float) -> None:
        """Redis has answered each: with a value, or with an error."""
        trouble: Exception | None = None
        progress = False
        for call, answer in zip(batch, answers, strict=True):
            if call.is_settled:  # abandoned meanwhile
                progress = True
            elif isinstance(answer, NoScriptError) and call.script is not None:
                self._unknown_scripts.add(call.script.sha)
                progress = True
            elif isinstance(answer, OutOfMemoryError) and call.fallback is not None:
                # Those behind it in this batch may have found memory again, and come before it: it is late, not lost.
                call.fall_back()
                progress = True
            elif isinstance(answer, ExecAbortError):
                trouble = trouble or answer  # not carried out, for one of the others was refused
            elif isinstance(answer, Exception) and is_passing(answer):
                trouble = answer
                call.at_risk = call.at_risk or isinstance(answer, NotEnoughReplicas)
            elif isinstance(answer, Exception):
                self._settle(call, _with_cause(DeliveryRefused(f"Redis refused: {answer}", call.channel), answer))
                progress = True
            else:
                self._read(call, answer)
                progress = True
        self._forget_settled()
        if trouble is None or (progress and isinstance(trouble, ExecAbortError)):
            self._failures_in_a_row = 0
        else:
            self._fail(trouble, now)

    def failed(self, batch: Sequence[Call], error: Exception, now: float, *, was_sent: bool) -> None:
        """The exchange failed. was_sent: some of them may have been carried out."""
        if not is_passing(error):
            for call in batch:
                if not call.is_settled:
                    refused = DeliveryRefused(f"Redis cannot be used: {error}", call.channel)
                    self._settle(call, _with_cause(refused, error))
        self.interrupted(batch, was_sent=was_sent and not isinstance(error, BusyLoadingError), error=error)
        self._fail(error, now)

    def interrupted(self, batch: Sequence[Call], *, was_sent: bool, error: Exception | None = None) -> None:
        """The exchange was broken off, for instance since whoever carried it out was cancelled. It is not Redis' fault."""
        for call in batch:
            call.at_risk = call.at_risk or was_sent
            if was_sent and not call.repeatable and not call.is_settled:
                message = f"sent, but no answer came; not sent again, for it might be published twice: {error}"
                self._settle(call, _with_cause(NotDelivered(message, call.channel, may_have_arrived=True), error))
        self._forget_settled()

    def expire(self, now: float) -> None:
        """Settle all whose deadline has passed, wherever they are in line."""
        for call in self.unsettled():
            if now >= call.deadline:
                self._time_out(call)
        self._forget_settled()

    def abandon(self, calls: Sequence[Call]) -> None:
        """Their callers wait no longer. What is on its way just now may arrive all the same."""
        for call in calls:
            if not call.is_settled:
                message = "given up by its caller"
                self._settle(call, NotDelivered(message, call.channel, may_have_arrived=call.at_risk))
                self._queue.remove(call)

    def close(self) -> None:
        """Take no more. What waits goes on."""
        self.is_closed = True

    def take_lost(self) -> tuple[list[NotDelivered], int]:
        """The posted calls that were not delivered since this was asked last: the first of them, and how many."""
        lost = self._lost, self._lost_count
        self._lost, self._lost_count = [], 0
        return lost

    def tell_news(self) -> None:
        """Log what was lost. Not while a lock is held, or in the midst of anything: a handler of logs may publish them here."""
        while self._news:
            channel, error = self._news.pop()
            _log.error("posted update of %s lost: %s; flush() tells of it and of any further", channel, error)

    def _fail(self, error: Exception, now: float) -> None:
        self._last_error = error
        self._not_before = now + backoff(self._failures_in_a_row, min(1.0, self.bounds.deadline / 4))
        self._failures_in_a_row += 1

    def _time_out(self, call: Call) -> None:
        reason = self._last_error if self._failures_in_a_row else None
        message = f"Redis has not acknowledged it within {call.within:g} s{f': {reason}' if reason else ''}"
        error = DeliveryTimedOut(message, call.channel, may_have_arrived=call.at_risk)
        self._settle(call, _with_cause(error, reason))

    def _read(self, call: Call, answer: Any) -> None:
        try:
            call.result = call.read(answer)
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            message = f"Redis gave an answer that cannot be read: {answer!r:.200}"
            self._settle(call, _with_cause(NotDelivered(message, call.channel, may_have_arrived=True), error))
        else:
            self._settle(call, None)

    def _settle(self, call: Call, error: NotDelivered | None) -> None:
        call.error = error
        call.is_settled = True
        self._waiting -= 1
        self._bytes -= call.size
        if error is not None and call.is_posted:
            if not self._lost_count:
                self._news.append((call.channel, error))
            self._lost_count += 1
            if len(self._lost) < _MOST_FAILURES:
                self._lost.append(error)

    def _forget_settled(self) -> None:
        while self._queue and self._queue[0].is_settled:
            self._queue.popleft()


def once() -> Callable[[], bool]:
    """What is done at the second asking: one batch, and others have their turn."""
    asked = iter((False,))
    return lambda: next(asked, True)


def _with_cause(error: NotDelivered, cause: Exception | None) -> NotDelivered:
    error.__cause__ = cause
    return error
