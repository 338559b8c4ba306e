"""Reporting that never waits: for job queues, whose hooks must not hold up a worker or a web request.

    callers (any thread)     begin, report, release: only hand over
    the sender's thread      sends, merges, tries again; the end of a task is tried longest

Handing over fails only when too much waits. That is logged once and counted.
"""

import logging
import os
from collections import deque
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib import import_module
from time import monotonic
from typing import Any
from weakref import WeakSet

from relay_wire.scripts import load

from relay_client import environment
from relay_client.progress.background_task import BackgroundTask, Opening
from relay_client.progress.schedule import Schedule
from relay_client.progress.task import Task
from relay_client.publisher import Publisher
from relay_client.publishing.exit_hook import ExitHook
from relay_client.publishing.thread_runtime import ThreadSignal
from relay_client.updates import task_channel

_log = logging.getLogger("relay_client")

#: Seconds for which an update is tried that does not end a task.
_REPORT_TIMEOUT = 60.0

#: Updates that may wait in the publisher: those of one round of the schedule, and some more.
_MAX_WAITING = 5000

#: A process that ends waits for so many seconds while no try fails: then its machine is busy, and Redis is not away.
_BUSY_SECONDS = 30.0

#: It looks so often whether a try has failed.
_POLL_SECONDS = 0.1

#: The end of a task may still wait when this many times the limit of all else does.
_RESERVE = 1.25


@cache
def _import_all() -> None:
    """Import now what the sender's thread would import when it first sends.

    A process that is forked while a thread imports something has that module half done, and nobody who completes it.
    """
    for name in (
        "encodings.idna",
        "concurrent.futures.thread",
        "importlib.readers",
        "email.parser",
        "redis.asyncio",
        "redis.cluster",
    ):
        import_module(name)
    for name in ("create", "heartbeat", "publish"):
        load(name)


#: Fields, or a function that makes them, in the sender's thread.
Fields = Mapping[str, Any] | Callable[[], Mapping[str, Any]]


class BackgroundReporter:
    """Reports on tasks from any thread, without ever waiting for Redis and without raising for it.

    A forked child may use it for tasks of its own; what its parent has not sent stays the parent's.

    Attributes:
        dropped: Reports that were not taken because too much waited.
    """

    def __init__(
        self,
        publisher: Publisher | str | None = None,
        *,
        rate: float = 10.0,
        heartbeat: float | None = None,
        end_timeout: float = 600.0,
        exit_timeout: float = 3.0,
        max_tasks: int = 10_000,
    ) -> None:
        """Make a reporter, which does not connect yet.

        Args:
            publisher: By which it reports, or the URL of a Redis; by default as `relay_client.Publisher` finds it.
            rate: Updates of each task per second, at most 1000.
            heartbeat: Seconds without an update after which a heartbeat is sent; by default a third of
                ``RELAY_TASK_STALL_SECONDS``.
            end_timeout: Seconds for which the end of a task is tried when Redis is away.
            exit_timeout: Seconds for which the end of the process waits for what is not sent yet.
            max_tasks: Tasks that run here or wait for Redis; more are not reported. The ends of tasks have some more room.

        Raises:
            ValueError: A number is out of range, or the environment cannot be right.
        """
        if max_tasks < 1:
            raise ValueError(f"max_tasks must be at least 1, not {max_tasks!r}")
        _import_all()
        self.publisher = (
            publisher if isinstance(publisher, Publisher) else Publisher(publisher, max_waiting=_MAX_WAITING)
        )
        self.exit_timeout = exit_timeout
        self._end_timeout = end_timeout
        self._max_tasks = max_tasks
        self._rate = rate
        self._heartbeat = environment.stall_seconds() / 3 if heartbeat is None else heartbeat
        self.reset()
        _reporters.add(self)

    def reset(self) -> None:
        """Begin without tasks: at first, and in a forked child."""
        self._schedule = Schedule(self.publisher.updates, self._rate, self._heartbeat)
        self._handed_over: deque[Callable[[], None]] = deque()
        self.dropped = 0
        self._is_used = self._is_accepting = False

    @property
    def lost(self) -> int:
        """Tasks whose last updates were not delivered in time, in this process."""
        return self._schedule.lost

    @property
    def waiting(self) -> int:
        """Tasks that run here, or whose updates wait for Redis."""
        # In this order: a task that the sender's thread moves from the one to the other may be counted twice, but never not.
        return len(self._handed_over) + len(self._schedule)

    def begin(
        self,
        task_id: str | int,
        fields: Fields,
        opening: Opening | Callable[[], Opening] | None = None,
        then: Callable[[], None] | None = None,
    ) -> BackgroundTask | None:
        """Begin a task that runs in this process from now on.

        Args:
            task_id: Its id.
            fields: Its first fields, or a function that makes them, in the sender's thread: a few, that never change.
            opening: What is published before them, or a function that makes it, in the sender's thread.
            then: Called in the sender's thread, as by `run_soon`.

        Returns:
            The task; None if it cannot be reported, which is logged.
        """
        task = self._task(task_id, opening)
        if task is None:
            return None
        if not callable(fields):
            task.set_first_fields(fields)
        self._hand_over(partial(_add, self._schedule, task, fields, then))
        return task

    def release(self, task: BackgroundTask, fields: Fields, *, key: str | None = None, is_final: bool = True) -> None:
        """Report the last fields of a task that `begin` has begun.

        Args:
            task: The task.
            fields: The last fields, as for `begin`.
            key: Name of the step, where another process may take it up; see `relay_client.progress.background_task`.
            is_final: The task has ended. Else another attempt follows, perhaps elsewhere.
        """
        task.stop()
        self._hand_over(partial(_release, self._schedule, task, fields, key, self._until(is_final=is_final)))

    def report(
        self,
        task_id: str | int,
        fields: Fields | None = None,
        opening: Opening | Callable[[], Opening] | None = None,
        *,
        key: str | None = None,
        is_final: bool = False,
    ) -> bool:
        """Report on a task that does not run in this process.

        Args:
            task_id: Its id.
            fields: The fields to publish, if any, as for `begin`.
            opening: As for `begin`.
            key: As for `release`.
            is_final: As for `release`.

        Returns:
            Whether it was taken.
        """
        if not self._has_room(self._max_tasks * (_RESERVE if is_final else 1)):
            return False
        try:
            task_channel(task_id)
        except (TypeError, ValueError) as error:
            self._drop(str(error))
            return False
        schedule, until = self._schedule, self._until(is_final=is_final)

        def make() -> None:
            task = BackgroundTask(task_id, self._note, opening)
            task.stop()
            _release(schedule, task, fields or {}, key, until)

        self._hand_over(make)
        return True

    def run_soon(self, function: Callable[[], None]) -> None:
        """Have a function called in the sender's thread, after what was handed over before. It must neither wait nor raise."""
        self._hand_over(function)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that was handed over has arrived.

        Args:
            timeout: Seconds to wait at most; by default ``exit_timeout``, and up to half a minute while no try has failed: on a
                busy machine, a process that has just begun may not be connected before.

        Returns:
            Whether it has.
        """
        sender, done = self.publisher.sender, ThreadSignal()
        if not self._is_used or sender.is_sender_thread():
            return True
        schedule = self._schedule
        sender.run_soon(lambda: self._flush(schedule, done))
        if timeout is not None:
            return done.wait_blocking(timeout)
        busy_until = monotonic() + _BUSY_SECONDS
        has_arrived = done.wait_blocking(self.exit_timeout)
        while not (has_arrived or sender.is_failing or schedule.is_failing) and monotonic() < busy_until:
            has_arrived = done.wait_blocking(_POLL_SECONDS)
        return has_arrived

    def give_up(self) -> None:
        """Have what is on its way not be tried again: the process ends."""
        for call in self._schedule.calls_in_flight():
            call.is_abandoned = True

    def _flush(self, schedule: Schedule, done: ThreadSignal) -> None:
        self._accept()
        self.publisher.sender.add_source(schedule)
        schedule.flush(done.set)

    def _has_room(self, limit: float) -> bool:
        # As `waiting`, without the calls: a job waits for this.
        if len(self._handed_over) + len(self._schedule) < limit:
            return True
        self._drop(f"{self.waiting} tasks run here or wait for Redis already")
        return False

    def _task(self, task_id: str | int, opening: Opening | Callable[[], Opening] | None) -> BackgroundTask | None:
        if not self._has_room(self._max_tasks):
            return None
        try:
            return BackgroundTask(task_id, self._note, opening)
        except (TypeError, ValueError) as error:
            self._drop(str(error))
            return None

    def _drop(self, reason: str) -> None:
        if not self.dropped:
            _log.warning("tasks are not reported to the relay, and any further without a log: %s", reason)
        self.dropped += 1

    def _until(self, *, is_final: bool) -> float:
        """Until when the last update of a task is tried."""
        return monotonic() + (self._end_timeout if is_final else _REPORT_TIMEOUT)

    def _hand_over(self, change: Callable[[], None]) -> None:
        """Have the schedule changed in the sender's thread."""
        if not self._is_used:
            self._is_used = True
            _exit_flush.arm()
        self._handed_over.append(change)
        if not self._is_accepting:
            self._is_accepting = True
            self.publisher.sender.run_soon(self._accept)

    def _accept(self) -> None:
        schedule = self._schedule
        self._is_accepting = False  # before the look: what is handed over from now on is accepted once more
        while self._handed_over:
            try:
                self._handed_over[0]()
            except Exception as error:  # noqa: BLE001 - what comes behind it must not be held up
                self._drop(repr(error))
            self._handed_over.popleft()  # only now: until it is in the schedule, it waits here
        if schedule.is_empty:
            self.publisher.sender.remove_source(schedule)
        else:
            self.publisher.sender.add_source(schedule)

    def _note(self, task: Task) -> None:
        sender = self.publisher.sender
        if self._schedule.note(task) or not sender.is_running:
            sender.wake_soon()


# In the sender's thread:


def _add(schedule: Schedule, task: BackgroundTask, fields: Fields, then: Callable[[], None] | None) -> None:
    try:
        if callable(fields):
            task.set_first_fields(fields())
    finally:
        schedule.add(task)
        if then is not None:
            then()


def _release(schedule: Schedule, task: BackgroundTask, fields: Fields, key: str | None, until: float) -> None:
    try:
        task.close(fields() if callable(fields) else fields, key=key)
    finally:
        schedule.release(task, until)


_reporters: "WeakSet[BackgroundReporter]" = WeakSet()


def _flush_all() -> None:
    for reporter in tuple(_reporters):
        waiting = reporter.waiting
        if waiting and not reporter.flush():
            reporter.give_up()
            _log.error("at exit: the last updates of some of %d tasks were not delivered", waiting)


#: Before the flush of publishers, which sends what is in their queues.
_exit_flush = ExitHook(_flush_all, priority=10)


def _reset_in_child() -> None:
    for reporter in tuple(_reporters):
        reporter.reset()


os.register_at_fork(after_in_child=_reset_in_child)
