"""The queue of calls that wait for Redis: their order, its limits, what is tried again, when, and for how long.

It does no I/O and has no clock: callers pass the time in. A sender works on it, one step at a time:

    put -> { pause -> take -> (exchange with Redis) -> answered | failed | interrupted } until all are settled

The order is kept through every failure: no call overtakes one that is to be tried again. A call leaves the queue when Redis has
acknowledged or refused it, at its deadline, or when its caller is cancelled.
"""

import logging
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import BusyLoadingError, ExecAbortError, NoScriptError, OutOfMemoryError
from relay_wire.publications import IDEMPOTENCY_TTL_MS

from relay_client.backoff import full_jitter
from relay_client.errors import BufferFull, DeliveryRefused, DeliveryTimedOut, NotDelivered, PublisherClosed
from relay_client.publishing.call import Call, Command
from relay_client.redis_errors import NotEnoughReplicas, is_retryable

_log = logging.getLogger("relay_client")

#: One exchange: large enough to make the round trip cheap, small enough not to hold Redis up.
_MAX_BATCH_CALLS = 128
_MAX_BATCH_BYTES = 1 << 20

#: Failures kept for the caller of ``flush()``; more are counted.
_MAX_FAILURES = 100

#: A deadline must end well before Redis forgets the keys by which it recognises an update that is sent again.
MAX_DEADLINE = IDEMPOTENCY_TTL_MS / 1000 / 2


def retry_delay(failures: int, cap: float = 1.0) -> float:
    """Return the seconds to wait after so many failures in a row.

    None after the first: most often, only the connection was an old one. Then exponential with full jitter, up to the cap.
    """
    return full_jitter(failures, 0.05, cap) if failures else 0.0


@dataclass(frozen=True, slots=True)
class DeliveryLimits:
    """Limits of a publisher. Raises ValueError for what cannot be right.

    Attributes:
        deadline: Seconds for which a call is tried; at most 150.
        timeout: Seconds for one try, from connecting to the answer.
        max_waiting: Number of calls that may wait.
        max_waiting_bytes: Bytes of the calls that may wait.
        wait_replicas: Replicas that must have an update before it counts as delivered.
    """

    deadline: float = 15.0
    timeout: float = 2.0
    max_waiting: int = 1000
    max_waiting_bytes: int = 16 << 20
    wait_replicas: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.deadline <= MAX_DEADLINE:
            raise ValueError(f"deadline must be over 0 and at most {MAX_DEADLINE:g} s, not {self.deadline!r}")
        if not 0 < self.timeout <= self.deadline:
            raise ValueError(f"timeout must be over 0 s and at most the deadline, not {self.timeout!r}")
        if self.max_waiting < 1 or self.max_waiting_bytes < 1:
            raise ValueError("max_waiting and max_waiting_bytes must be at least 1")
        if self.wait_replicas < 0:
            raise ValueError("wait_replicas must not be negative")


class DeliveryQueue:
    """The calls of one publisher. Times are seconds of one monotonic clock. For one thread at a time."""

    def __init__(self, limits: DeliveryLimits, max_batch: int = _MAX_BATCH_CALLS) -> None:
        self.limits = limits
        self._max_batch = max_batch
        self._calls: deque[Call] = deque()
        #: Calls that are not settled, and their bytes.
        self.waiting = self.waiting_bytes = 0
        self._failures_in_a_row = 0
        self._not_before = 0.0
        self._unknown_scripts: set[str] = set()
        self._last_error: Exception | None = None
        self._lost: list[NotDelivered] = []
        self._lost_count = 0
        self._to_log: list[tuple[str, NotDelivered]] = []
        self.is_closed = False

    def unsettled(self) -> list[Call]:
        """Return the calls that wait, in order."""
        return [call for call in self._calls if not call.is_settled]

    def check(self, calls: Sequence[Call], waiting: int, waiting_bytes: int) -> None:
        """Raise BufferFull or PublisherClosed if calls cannot be taken while so much waits. From any thread."""
        if self.is_closed:
            raise PublisherClosed("this publisher is closed", calls[0].channel)
        limits = self.limits
        size = sum(call.size for call in calls)
        if waiting + len(calls) > limits.max_waiting or waiting_bytes + size > limits.max_waiting_bytes:
            reason = f": {self._last_error}" if self._last_error and self._failures_in_a_row else ""
            raise BufferFull(
                f"{waiting} updates ({waiting_bytes} bytes) wait for Redis already{reason}", calls[0].channel
            )

    def deadline_of(self, timeout: float | None) -> float:
        """Return the seconds for which calls with this timeout are tried."""
        return self.limits.deadline if timeout is None else min(timeout, MAX_DEADLINE)

    def stamp(self, calls: Sequence[Call], now: float, timeout: float | None, *, posted: bool) -> None:
        """Give calls their deadline; timeout: in seconds, where it is not the queue's. From any thread."""
        for call in calls:
            call.timeout = self.deadline_of(timeout)
            call.deadline = now + call.timeout
            call.is_posted = posted

    def put(self, calls: Sequence[Call], now: float, timeout: float | None = None, *, posted: bool = False) -> None:
        """Add calls, all or none.

        Args:
            calls: The calls, in order.
            now: The time.
            timeout: Seconds until their deadline, where it is not the queue's.
            posted: Nobody waits for them.

        Raises:
            BufferFull: Too much waits.
            PublisherClosed: The queue is closed.
        """
        self.check(calls, self.waiting, self.waiting_bytes)
        self.stamp(calls, now, timeout, posted=posted)
        self.add(calls, now)

    def add(self, calls: Sequence[Call], now: float) -> None:
        """Add calls that were checked and stamped."""
        if not self.waiting:
            self._not_before = now  # the pause was about an outage that may be over
        self._calls.extend(calls)
        self.waiting += len(calls)
        self.waiting_bytes += sum(call.size for call in calls)

    def pause(self, now: float) -> float:
        """Return the seconds until the next try is due."""
        return max(0.0, self._not_before - now)

    def take(self, now: float) -> list[Call]:
        """Return the calls to send now, which stay in the queue. Empty when none waits."""
        self._drop_settled()
        batch: list[Call] = []
        size = 0
        for call in self._calls:
            if call.is_settled:
                continue
            if now >= call.deadline:
                self._time_out(call)
                continue
            size += call.size
            if batch and (len(batch) == self._max_batch or size > _MAX_BATCH_BYTES):
                break
            # In this order: its caller, in another thread, sets is_abandoned and then looks at is_in_flight.
            call.is_in_flight = True
            if call.is_abandoned:
                self._give_up(call)
            else:
                batch.append(call)
        return batch

    def commands(self, batch: Sequence[Call], known_scripts: Collection[str] = ()) -> list[Command]:
        """Return what to send for them.

        A script that the server did not know is sent with its source, once. Where calls of several kinds go together that is
        done with every script that it may not know: else those whose script it knows would overtake the others.

        Args:
            batch: The calls.
            known_scripts: Digests of the scripts that the server has run over this connection.
        """
        unknown, self._unknown_scripts = self._unknown_scripts, set()
        scripts = {call.script for call in batch}
        if len(scripts) > 1:
            unknown |= {script.sha for script in scripts if script is not None and script.sha not in known_scripts}
        commands = []
        for call in batch:
            with_source = call.script is not None and call.script.sha in unknown
            commands.append(call.wire_args(with_source=with_source))
            if with_source and call.script is not None:
                unknown.discard(call.script.sha)
        return commands

    def answered(self, batch: Sequence[Call], answers: Sequence[Any], now: float) -> None:
        """Note Redis' answer to each call: a value, or an error."""
        trouble: Exception | None = None
        progress = False
        executed = max((place for place, answer in enumerate(answers) if not isinstance(answer, Exception)), default=-1)
        for place, (call, answer) in enumerate(zip(batch, answers, strict=True)):
            call.is_in_flight = False
            if call.is_settled:  # abandoned meanwhile
                progress = True
            elif isinstance(answer, NoScriptError) and call.script is not None:
                self._unknown_scripts.add(call.script.sha)
                progress = True
                if place < executed and call.fallback_if_overtaken:
                    call.use_fallback()
            elif isinstance(answer, OutOfMemoryError) and call.fallback is not None:
                # Those behind it in this batch may have found memory again, and come before it: it is late, not lost.
                call.use_fallback()
                progress = True
            elif isinstance(answer, ExecAbortError):
                trouble = trouble or answer  # not executed, for another call of the transaction was refused
            elif isinstance(answer, Exception) and is_retryable(answer):
                trouble = answer
                call.may_have_arrived = call.may_have_arrived or isinstance(answer, NotEnoughReplicas)
            elif isinstance(answer, Exception):
                self._settle(call, _with_cause(DeliveryRefused(f"Redis refused: {answer}", call.channel), answer))
                progress = True
            else:
                self._read(call, answer)
                progress = True
        self._drop_settled()
        if trouble is None or (progress and isinstance(trouble, ExecAbortError)):
            self._failures_in_a_row = 0
        else:
            self._note_failure(trouble, now)

    def failed(self, batch: Sequence[Call], error: Exception, now: float, *, was_sent: bool) -> None:
        """Note that the exchange failed; was_sent: some calls may have been executed."""
        if not is_retryable(error):
            for call in batch:
                if not call.is_settled:
                    refused = DeliveryRefused(f"Redis cannot be used: {error}", call.channel)
                    self._settle(call, _with_cause(refused, error))
        self.interrupted(batch, was_sent=was_sent and not isinstance(error, BusyLoadingError), error=error)
        self._note_failure(error, now)

    def interrupted(self, batch: Sequence[Call], *, was_sent: bool, error: Exception | None = None) -> None:
        """Note that the exchange was broken off, for instance because the task that ran it was cancelled."""
        for call in batch:
            call.may_have_arrived = call.may_have_arrived or was_sent
            call.is_in_flight = False
            if was_sent and not call.repeatable and not call.is_settled:
                message = f"sent, but no answer came; not sent again, for it might be published twice: {error}"
                self._settle(call, _with_cause(NotDelivered(message, call.channel, may_have_arrived=True), error))
        self._drop_settled()

    def expire(self, now: float) -> None:
        """Settle all calls whose deadline has passed, wherever they are in the queue."""
        for call in self.unsettled():
            if now >= call.deadline:
                self._time_out(call)
        self._drop_settled()

    def abandon(self, calls: Sequence[Call]) -> None:
        """Give up calls whose callers wait no longer. One that is being sent just now may arrive all the same."""
        for call in calls:
            if not call.is_settled:
                self._give_up(call)
                self._calls.remove(call)

    def close(self) -> None:
        """Take no more calls. Those that wait are still sent."""
        self.is_closed = True

    def take_lost(self) -> tuple[list[NotDelivered], int]:
        """Return the posted calls that were lost since this was asked last: the first of them, and how many."""
        lost = self._lost, self._lost_count
        self._lost, self._lost_count = [], 0
        return lost

    @property
    def has_lost(self) -> bool:
        """Posted calls were lost that `take_lost` has not returned."""
        return bool(self._lost_count)

    @property
    def is_failing(self) -> bool:
        """The last exchange with Redis has failed."""
        return bool(self._failures_in_a_row)

    def fail_all(self, error: Exception) -> None:
        """Give up all that waits, because the sender itself has failed."""
        for call in self.unsettled():
            message = f"the sender has failed: {error!r}"
            lost = NotDelivered(message, call.channel, may_have_arrived=call.may_have_arrived or call.is_in_flight)
            self._settle(call, _with_cause(lost, error))
        self._calls.clear()

    def log_lost(self) -> None:
        """Log what was lost. Only between two steps: a handler of the log may publish by this same queue."""
        while self._to_log:
            channel, error = self._to_log.pop()
            _log.error("posted update of %s lost: %s; flush() reports it and any further loss", channel, error)

    def _note_failure(self, error: Exception, now: float) -> None:
        self._last_error = error
        self._not_before = now + retry_delay(self._failures_in_a_row, min(1.0, self.limits.deadline / 4))
        self._failures_in_a_row += 1

    def _give_up(self, call: Call) -> None:
        may_have_arrived = call.may_have_arrived
        self._settle(call, NotDelivered("given up by its caller", call.channel, may_have_arrived=may_have_arrived))

    def timed_out(self, timeout: float, channel: str, *, may_have_arrived: bool) -> DeliveryTimedOut:
        """Return the error of a call that has waited for `timeout` seconds. From any thread."""
        reason = self._last_error if self._failures_in_a_row else None
        message = f"Redis has not acknowledged it within {timeout:g} s{f': {reason}' if reason else ''}"
        error = DeliveryTimedOut(message, channel, may_have_arrived=may_have_arrived)
        error.__cause__ = reason
        return error

    def _time_out(self, call: Call) -> None:
        self._settle(call, self.timed_out(call.timeout, call.channel, may_have_arrived=call.may_have_arrived))

    def _read(self, call: Call, answer: Any) -> None:
        try:
            result = call.read(answer)
        except NotDelivered as error:
            self._settle(call, error)
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            message = f"Redis gave an answer that cannot be read: {answer!r:.200}"
            self._settle(call, _with_cause(NotDelivered(message, call.channel, may_have_arrived=True), error))
        else:
            self._settle(call, None, result)

    def _settle(self, call: Call, error: NotDelivered | None, result: Any = None) -> None:
        self.waiting -= 1
        self.waiting_bytes -= call.size
        if error is not None and call.is_posted:
            if not self._lost_count:
                self._to_log.append((call.channel, error))
            self._lost_count += 1
            if len(self._lost) < _MAX_FAILURES:
                self._lost.append(error)
        call.settle(result, error)

    def _drop_settled(self) -> None:
        while self._calls and self._calls[0].is_settled:
            self._calls.popleft()


def _with_cause(error: NotDelivered, cause: Exception | None) -> NotDelivered:
    error.__cause__ = cause
    return error
