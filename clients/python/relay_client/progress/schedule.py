"""Which tasks have something to send when: progress at a limited rate, and heartbeats while there is none."""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from relay_wire.position import Position

from relay_client.errors import NotDelivered
from relay_client.progress.task import Task
from relay_client.publishing.call import Call
from relay_client.updates import Updates

_log = logging.getLogger("relay_client")

#: Seconds between two rounds: many tasks are sent together.
_ROUND = 0.01

#: Seconds before a task is tried again whose updates were not delivered by their deadline.
_PAUSE = 1.0

#: Tasks of one round: their calls are a part of what may wait for Redis.
_MAX_ROUND_TASKS = 200


class Sending(NamedTuple):
    """Calls of a task that are on their way; is_heartbeat: they carry no fields."""

    task: Task
    calls: list[Call]
    is_heartbeat: bool


class Schedule:
    """The tasks of a reporter: a source of its publisher's sender. For the sender's thread, but for `note`."""

    def __init__(self, updates: Updates, rate: float, heartbeat: float) -> None:
        """Make a schedule without tasks.

        Args:
            updates: Makes the calls.
            rate: Updates of each task per second, at most.
            heartbeat: Seconds without an update after which a heartbeat is sent.

        Raises:
            ValueError: A number is out of range.
        """
        if not 0 < rate <= 1000:
            raise ValueError(f"rate must be over 0 and at most 1000 a second, not {rate!r}")
        if not 0 < heartbeat < float("inf"):
            raise ValueError(f"heartbeat must be over 0 s, not {heartbeat!r}")
        self._updates = updates
        self._interval = 1.0 / rate
        self._heartbeat = heartbeat
        self._tasks: set[Task] = set()
        self._leaving: dict[Task, float] = {}  # have ended here; until when their last updates are tried
        self._noted: deque[Task] = deque()
        self._waiting: dict[Task, None] = {}  # have something to send that is not due yet, in order
        self._flushes: list[Callable[[], None]] = []
        #: Tasks that were left before their last updates had arrived.
        self.lost = 0
        self._next_round = self._next_look = 0.0
        #: What was sent last was not delivered.
        self.is_failing = False
        self._in_flight: list[Sending] = []
        #: Until when the sender does not look what was noted, unless it is woken; 0 while it is about to look.
        self._looks_at = math.inf

    def add(self, task: Task) -> None:
        """Take in a task that has begun."""
        self._tasks.add(task)
        if task.has_pending():
            self._waiting[task] = None

    def release(self, task: Task, until: float) -> None:
        """Send what a task still has, but no heartbeats, and remove it when that has arrived; at the latest at a time."""
        self._leaving[task] = until  # before it is no longer one that runs: other threads count both
        self._tasks.discard(task)
        task.not_before = min(task.not_before, self._next_round)
        self._waiting[task] = None

    def remove(self, task: Task) -> None:
        """Send nothing more of a task."""
        self._tasks.discard(task)
        self._leaving.pop(task, None)
        self._waiting.pop(task, None)

    @property
    def is_empty(self) -> bool:
        """There are no tasks."""
        return not self._tasks and not self._leaving

    def __len__(self) -> int:
        return len(self._tasks) + len(self._leaving)

    def flush(self, done: Callable[[], None]) -> None:
        """Send all that waits without regard to the rate, and then call `done`, once."""
        self._flushes.append(done)
        self._next_round = 0.0
        for task in (*self._tasks, *self._leaving):
            task.not_before = 0.0

    def note(self, task: Task) -> bool:
        """Note that a task has something to send; return whether the sender is to be woken for it. From any thread.

        The sender looks by itself when the next update of a task may be sent. To wake it before is to wake it for nothing.
        """
        self._noted.append(task)  # before the look at the time, which the sender sets before it looks at these
        return task.not_before < self._looks_at

    def collect(self, now: float, put: Callable[[list[Call]], None]) -> float | None:
        """See `relay_client.publishing.sender.Source`."""
        self._looks_at = 0.0
        if self._in_flight:
            if not all(call.is_settled for sending in self._in_flight for call in sending.calls):
                return None
            self.settle(self._in_flight, now)
        self._in_flight = self.put_due(now, put)
        self._drop_expired(now)
        if self._flushes and not self._in_flight and not self._noted and not self._waiting:
            flushes, self._flushes = self._flushes, []
            for done in flushes:
                done()
        if self._in_flight:
            return None
        seconds = self.wait(now)
        self._looks_at = math.inf if seconds is None else now + seconds
        # What was noted since was not to wake anybody.
        return self.wait(now) if self._noted else seconds

    def calls_in_flight(self) -> list[Call]:
        """Return the calls that were queued and are not settled."""
        return [call for sending in self._in_flight for call in sending.calls if not call.is_settled]

    def wait(self, now: float) -> float | None:
        """Return the seconds until something is or may be due; None when there are no tasks."""
        if self.is_empty:
            return None
        times = [max(task.not_before, self._next_round) for task in self._waiting]
        for task in self._tasks:
            # A task that reports often has something to send as soon as it may be sent.
            times.append(task.not_before if task.not_before > now else task.last_sent + self._heartbeat)
        if self._noted:
            times.append(self._next_round)
        times += [until for task, until in self._leaving.items() if task not in self._waiting]
        return max(0.0, min(times) - now)

    def put_due(self, now: float, put: Callable[[list[Call]], None]) -> list[Sending]:
        """Queue what is due."""
        if now < self._next_round:
            return []
        while self._noted:
            task = self._noted.popleft()
            if task in self._tasks or task in self._leaving:
                self._waiting[task] = None
        sending: list[Sending] = []
        try:
            for task in list(islice(self._due(now), _MAX_ROUND_TASKS)):
                del self._waiting[task]
                task.not_before = now + self._interval
                calls = task.take(self._updates, put)
                if calls:
                    sending.append(Sending(task, calls, False))
                else:
                    self._leaving.pop(task, None)
            for task in [each for each in self._tasks if now >= max(each.last_sent + self._heartbeat, each.not_before)]:
                task.not_before = now + min(self._interval, self._heartbeat)
                heartbeat = [self._updates.heartbeat(task.id)]
                put(heartbeat)
                sending.append(Sending(task, heartbeat, True))
        except NotDelivered as error:  # the queue is full, or closed
            self._note_failure(error)
            self._next_round = now + _PAUSE
            self._waiting = {task: None for task in (*self._tasks, *self._leaving) if task.has_pending()}
        else:
            self._next_round = now if len(sending) >= _MAX_ROUND_TASKS else now + _ROUND
        return sending

    def _due(self, now: float) -> Iterator[Task]:
        """Iterate over what is due. Reports on one task that were begun one after the other stay in order."""
        seen: set[str] = set()
        for task in self._waiting:
            if task.not_before <= now and task.id not in seen:
                yield task
            seen.add(task.id)

    def settle(self, sending: list[Sending], now: float) -> None:
        """Note the outcome of calls that are settled."""
        again: list[Task] = []
        for task, calls, is_heartbeat in sending:
            errors = [call.error for call in calls if call.error is not None]
            if errors:
                self._note_failure(errors[0])
                task.not_before = now + _PAUSE
                if not is_heartbeat:
                    task.requeue()
            elif is_heartbeat and calls[0].outcome() is False:
                _log.warning("Redis does not know task %s any more; it is sent again", task.id)
                task.requeue_all()
                task.last_sent = now
            else:
                self.is_failing = False
                if is_heartbeat:
                    task.last_sent = now
                else:
                    task.acknowledged(now)
                    self._note_epoch(task, calls)
            if task.has_pending():
                if task in self._tasks or task in self._leaving:
                    again.append(task)
            else:
                self._leaving.pop(task, None)
        if again:
            self._waiting = dict.fromkeys((*again, *self._waiting))

    def _drop_expired(self, now: float) -> None:
        """Give up the last updates of tasks whose time is over."""
        if not self.is_failing or now < self._next_look:
            return
        self._next_look = now + _PAUSE
        for task in [task for task, until in self._leaving.items() if now >= until]:
            self.remove(task)
            if not self.lost:
                _log.error("task %s: its last updates were not delivered in time, nor are they tried any more", task.id)
            self.lost += 1

    @staticmethod
    def _note_epoch(task: Task, calls: list[Call]) -> None:
        """Notice that Redis has lost the task: an update alone creates it again, without any heartbeat to show it."""
        position = calls[-1].outcome()
        epoch = position.epoch if isinstance(position, Position) else task.epoch
        if task.epoch not in (None, epoch):
            _log.warning("Redis has lost task %s; it is sent again", task.id)
            task.requeue_all()
        task.epoch = epoch

    def _note_failure(self, error: NotDelivered) -> None:
        if not self.is_failing:
            _log.warning("progress of tasks is not delivered, and tried again: %s", error)
        self.is_failing = True
