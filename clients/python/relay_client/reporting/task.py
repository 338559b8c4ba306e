"""One task as its worker sees it: what it reports is merged here until a reporter sends it.

    progress() ... progress() -> fields -> taken, put in line -> acknowledged
                                    ^                  |
                                    +------------------+  not delivered: to be taken again

Reporting only writes the last values, and takes no lock. What is sent are those that differ from what was taken last; what was
taken and not delivered counts as not taken; and the update that ends the task carries all that is not acknowledged. So the last
value is never lost, however much is merged.
"""

import json
import os
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from math import isfinite
from operator import length_hint
from time import monotonic
from typing import Any, TypeVar
from uuid import uuid4
from weakref import WeakSet

from relay_wire.channels import MAX_FIELDS
from relay_wire.statuses import CANCELLED, COMPLETED, FAILED, IN_PROGRESS, PENDING

from relay_client.delivery.call import Call
from relay_client.encoding import encode
from relay_client.errors import NotDelivered
from relay_client.updates import Updates, task_channel

_T = TypeVar("_T")

#: Changes of stage that are kept apart while they wait; of more, the oldest are merged.
_MOST_STAGES = 16

#: Longest text of an error that goes out, in characters.
_MOST_ERROR = 2000

_PLAIN = frozenset({str, int, bool, type(None)})

#: Tasks that have begun: what a forked child has of them is not its own.
_open_tasks: "WeakSet[Task]" = WeakSet()


class TaskCancelled(Exception):
    """Raise it to end a task as cancelled. A task whose cancellation was asked for raises it where it next reports."""


def now_text() -> str:
    """The time as tasks have it: ISO 8601, in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def error_text(error: BaseException) -> str:
    """An error as a task's field ``error``."""
    text = told(error)
    return f"{type(error).__name__}: {text}"[:_MOST_ERROR] if text else type(error).__name__


def told(error: BaseException) -> str:
    """What an error says, cut off where it is long: always text that can be published."""
    try:
        text = str(error)
    except Exception as failure:  # noqa: BLE001 - other people's code
        text = f"(its text cannot be had: {type(failure).__name__})"
    return text[:_MOST_ERROR].encode(errors="backslashreplace").decode()


class Task:
    """A task, for the code that works on it; its methods neither block nor wait, and may be called from any thread.

    A reporter makes them. Whatever is reported is sent a few times a second at most, merged; changes of stage stay apart.
    """

    def __init__(self, task_id: str | int | None, info: Mapping[str, Any], note: Callable[["Task"], None]) -> None:
        self.id = uuid4().hex if task_id is None else str(task_id)
        task_channel(self.id)
        self._info = _copied({name: value for name, value in info.items() if value is not None})
        self._note = note
        self._fields: dict[str, Any] = {}  # the last values of all that was ever reported
        self._taken: dict[str, Any] = {}  # what was taken of these
        self._unacknowledged: set[str] = set()  # the names of those that have not arrived
        #: Of its channel, when an update last arrived.
        self.epoch: str | None = None
        self._earlier: list[dict[str, Any]] = []  # what was reported in stages that are over, and not taken
        self._stage: str | None = None
        self._is_noted = False
        self._lock = threading.Lock()  # of all but `_fields` and `_is_noted`
        #: Why nothing can be reported any more.
        self._stopped: Exception | None = None
        self._has_ended = False
        #: When something of it was last sent with success, and when it may be next; monotonic seconds.
        self.last_sent = 0.0
        self.not_before = 0.0
        #: What kept an update from being sent that nothing can mend.
        self.failure: Exception | None = None

    def progress(
        self, progress: float | None = None, message: str | None = None, *, stage: str | None = None, **fields: Any
    ) -> None:
        """Report how far it is, in percent, and what it is about; further fields go out as they are.

        Raises ValueError or TypeError for what cannot be published, TaskCancelled when the task is to end, RuntimeError when it
        has ended. Costs about a microsecond: call it as often as you like.
        """
        if self._stopped is not None:
            raise type(self._stopped)(*self._stopped.args)
        if progress is not None:
            if not 0 <= progress <= 100:
                raise ValueError(f"progress is from 0 to 100, not {progress!r}")
            if type(progress) is not int and type(progress) is not float:
                progress = float(progress)
        if message is not None and type(message) is not str:
            message = str(message)
        if fields:
            fields = self._checked(fields)
        if stage is not None and stage != self._stage:
            self._turn_to(stage)
        # Each of these is atomic, and is before the look at `_is_noted`, which a taker resets before it looks at these.
        if progress is not None:
            self._fields["progress"] = progress
        if message is not None:
            self._fields["message"] = message
        if fields:
            self._fields.update(fields)
        if not self._is_noted:
            self._is_noted = True
            self._note(self)

    def _checked(self, fields: dict[str, Any]) -> dict[str, Any]:
        # With some room for those of this module's own.
        if len(self._fields.keys() | fields.keys()) > MAX_FIELDS - 16:
            raise ValueError(f"a task has {MAX_FIELDS - 16} fields at most")
        return _copied(fields)

    def _turn_to(self, stage: str) -> None:
        """What is not taken of the stage that is over stays apart."""
        with self._lock:
            if self._stage is not None:
                part = self._differing()
                if part:
                    self._earlier.append(part)
                    self._taken.update(part)
                    if len(self._earlier) > _MOST_STAGES:
                        self._earlier[:2] = [self._earlier[0] | self._earlier[1]]
            self._fields["stage"] = self._stage = str(stage)

    def _differing(self) -> dict[str, Any]:
        taken = self._taken
        return {
            name: value for name, value in self._fields.copy().items() if not _is_same(value, taken.get(name, self))
        }

    def update(self, **fields: Any) -> None:
        """Report fields; as `progress`."""
        self.progress(None, None, **fields)

    def track(
        self,
        items: Iterable[_T],
        *,
        total: int | None = None,
        start: float = 0.0,
        end: float = 100.0,
        message: str | None = None,
        stage: str | None = None,
    ) -> Iterator[_T]:
        """Iterate over items, and report after each one how many are done (``done``, ``total`` and the progress).

        total:      how many there are; by default the items' length, where they have one. Without it there is no progress
        start, end: the part of the task's progress that these items are
        """
        count = _Count(self, items, total, start, end, message, stage)
        for item in items:
            yield item
            count.one_more()

    async def atrack(
        self,
        items: AsyncIterable[_T],
        *,
        total: int | None = None,
        start: float = 0.0,
        end: float = 100.0,
        message: str | None = None,
        stage: str | None = None,
    ) -> AsyncIterator[_T]:
        """`track` for ``async for``."""
        count = _Count(self, items, total, start, end, message, stage)
        async for item in items:
            yield item
            count.one_more()

    @property
    def is_cancelled(self) -> bool:
        """Its cancellation was asked for: end soon, for instance by raising TaskCancelled."""
        return isinstance(self._stopped, TaskCancelled)

    def ask_to_cancel(self, reason: str = "cancelled") -> None:
        """Have it raise TaskCancelled where it next reports."""
        with self._lock:
            if self._stopped is None:
                self._stopped = TaskCancelled(reason)

    # What follows is for reporters.

    def begin(self, updates: Updates, *, announce: bool) -> list[Call]:
        """The calls that announce and start it."""
        created = {"status": PENDING, "created_at": now_text(), **self._info}
        # The whole of it, for those who were subscribed before there was such a task.
        started = {**created, "status": IN_PROGRESS, "started_at": now_text()}
        if not announce:
            started = {**self._info, "status": IN_PROGRESS, "started_at": started["started_at"]}
        calls = updates.created(self.id, created) if announce else []
        calls += updates.task_update(self.id, started)
        self._fields.update(started)
        self._taken.update(started)
        self.last_sent = self.not_before = monotonic()
        _open_tasks.add(self)
        return calls

    def has_pending(self) -> bool:
        """There is something to send."""
        return self._is_noted and not self._has_ended

    def take(self, updates: Updates, put: Callable[[list[Call]], None]) -> list[Call]:
        """Take what is to be sent, and put it in line, so that nothing newer can come before it."""
        with self._lock:
            if self._has_ended:
                return []
            calls = self._take(updates)
            try:
                if calls:
                    put(calls)
            except NotDelivered:
                self._put_back()
                raise
            return calls

    def _take(self, updates: Updates) -> list[Call]:
        self._is_noted = False
        parts = [*self._earlier, self._differing()]
        self._earlier = []
        calls: list[Call] = []
        for part in parts:
            if part:
                self._taken.update(part)
                try:
                    calls += updates.task_update(self.id, part)
                except (TypeError, ValueError):  # checked one by one, they are too long together
                    calls += self._take_each(updates, part)
                else:
                    self._unacknowledged.update(part)
        return calls

    def _take_each(self, updates: Updates, part: Mapping[str, Any]) -> list[Call]:
        calls: list[Call] = []
        for name, value in part.items():
            try:
                calls += updates.task_update(self.id, {name: value})
            except (TypeError, ValueError) as error:
                self.failure = error
            else:
                self._unacknowledged.add(name)
        return calls

    def acknowledged(self, now: float) -> None:
        """What was taken has arrived."""
        with self._lock:
            self._unacknowledged.clear()
            self.last_sent = now

    def put_back(self) -> None:
        """What was taken has not arrived."""
        with self._lock:
            self._put_back()

    def _put_back(self) -> None:
        for name in self._unacknowledged:
            self._taken.pop(name, None)
        self._unacknowledged.clear()
        self._is_noted = True

    def put_all_back(self) -> None:
        """Redis has forgotten the task: all that is known of it is to be sent again."""
        with self._lock:
            self._unacknowledged.update(self._taken)
            self._put_back()

    def end(
        self, updates: Updates, put: Callable[[list[Call]], None], status: str, fields: Mapping[str, Any]
    ) -> list[Call]:
        """Put its last updates in line: what is to be sent still, and then its end."""
        with self._lock:
            if self._has_ended:
                raise RuntimeError(*(self._stopped.args if self._stopped else ()))
            calls = self._take(updates)
            uncertain = {name: self._fields[name] for name in self._unacknowledged}
            try:
                calls += updates.task_update(self.id, {**uncertain, **fields, "status": status})
            except ValueError:  # together they are too long
                calls += self._take_each(updates, uncertain)
                calls += updates.task_update(self.id, {**fields, "status": status})
            put(calls)
            self._stop()
            return calls

    def abandon(self) -> None:
        """It is another's from now on, or nobody's: nothing more is sent."""
        with self._lock:
            self._stop()

    def _stop(self) -> None:
        self._has_ended = True
        if self._stopped is None:
            self._stopped = RuntimeError(f"task {self.id} has ended")

    def disown(self) -> None:
        """In a forked child: it is the parent's."""
        self._lock = threading.Lock()  # a thread of the parent may hold the other one for ever
        self._has_ended = True
        self._stopped = RuntimeError(f"task {self.id} is its parent process's; a forked child begins its own")


class _Count:
    """What `Task.track` counts."""

    def __init__(
        self,
        task: Task,
        items: object,
        total: int | None,
        start: float,
        end: float,
        message: str | None,
        stage: str | None,
    ) -> None:
        if not 0 <= start <= end <= 100:
            raise ValueError(f"start and end are from 0 to 100, not {start!r} and {end!r}")
        self._task = task
        self._done = 0
        self._total = (length_hint(items, -1) if total is None else total) or 0
        self._start, self._end = start, end
        counted = {"done": 0, "total": self._total} if self._total > 0 else {"done": 0}
        task.progress(start if self._total > 0 else None, message, stage=stage, **counted)

    def one_more(self) -> None:
        self._done += 1
        if self._total > 0:
            part = min(1.0, self._done / self._total)
            self._task.progress(round(self._start + (self._end - self._start) * part, 2), done=self._done)
        else:
            self._task.progress(done=self._done)


def _copied(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that do not change when their values do. Raises TypeError or ValueError for what has no JSON form."""
    return {
        name: value
        if type(value) in _PLAIN
        else json.loads(encode(value))
        if type(value) is not float
        else _finite(value)
        for name, value in fields.items()
    }


def _finite(value: float) -> float:
    if not isfinite(value):
        raise ValueError(f"{value!r} is not JSON")
    return value


def _is_same(value: object, other: object) -> bool:
    return value is other or (type(value) is type(other) and value == other)


def end_of(error: BaseException | None) -> tuple[str, dict[str, Any]]:
    """The status and fields of a task that ended with an error, or with none."""
    if error is None:
        return COMPLETED, {"progress": 100, "completed_at": now_text()}
    if _has_failed(error):
        return FAILED, {"error": error_text(error), "completed_at": now_text()}
    return CANCELLED, {"completed_at": now_text()}


def _has_failed(error: BaseException) -> bool:
    """An error, and not a cancellation: KeyboardInterrupt and the loops' Cancelled are no Exceptions."""
    if isinstance(error, BaseExceptionGroup):
        return any(_has_failed(each) for each in error.exceptions)
    return isinstance(error, Exception) and not isinstance(error, TaskCancelled)


def _disown() -> None:
    for task in _open_tasks:
        task.disown()


os.register_at_fork(after_in_child=_disown)
