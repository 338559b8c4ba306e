"""One task as its worker sees it: what it reports is merged here until a reporter sends it.

    progress() ... progress() -> fields -> taken, queued -> acknowledged
                                    ^             |
                                    +-------------+  not delivered: to be taken again

Reporting only writes the last values, and takes no lock. What is sent are those that differ from what was taken last; what was
taken and not delivered counts as not taken; and the update that ends the task carries all that is not acknowledged. So the last
value is never lost, however much is merged.

Any thread, signal handler or finalizer may report. Taking, acknowledging and ending is left to the sender: its thread, or its
event loop.
"""

import logging
import os
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from math import isfinite
from operator import length_hint
from time import monotonic
from typing import Any, TypeVar
from uuid import uuid4
from weakref import WeakSet

from relay_wire.channels import MAX_FIELDS
from relay_wire.creation import NO_OPTIONS, CreationOptions
from relay_wire.statuses import CANCELLED, COMPLETED, FAILED, IN_PROGRESS, PENDING

from relay_client.cancellation.event import CancelEvent
from relay_client.encoding import plain_copy
from relay_client.errors import NotDelivered
from relay_client.publishing.call import Call
from relay_client.updates import Updates, task_channel

_log = logging.getLogger("relay_client")

_T = TypeVar("_T")

#: Changes of stage that are kept apart while they wait; of more, the oldest are merged.
_MAX_STAGES = 16

#: By so much progress may be out of its range: sums of floats miss 100 by less.
_TOLERANCE = 1e-3

#: Longest text of an error that is published, in characters.
_MAX_ERROR_LENGTH = 2000

#: How often the sender looks again for a stage that ended while it looked.
_MAX_LOOKS = 10

_PLAIN = frozenset({str, int, bool, type(None)})

#: Tasks that have begun: what a forked child has of them is not its own.
_open_tasks: "WeakSet[Task]" = WeakSet()


def _nothing() -> None:
    """Nothing is to be done at the task's end."""


class TaskCancelled(Exception):
    """Raise it to end a task as cancelled. A task whose cancellation was requested raises it where it next reports."""


def utc_now_iso() -> str:
    """Return the time as tasks have it: ISO 8601, in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def error_text(error: BaseException) -> str:
    """Return an error as a task's field ``error``."""
    text = safe_str(error)
    return f"{type(error).__name__}: {text}"[:_MAX_ERROR_LENGTH] if text else type(error).__name__


def safe_str(error: BaseException) -> str:
    """Return the text of an error, cut where it is long: always text that can be published."""
    try:
        text = str(error)
    except Exception as failure:  # noqa: BLE001 - other people's code
        text = f"(its text cannot be read: {type(failure).__name__})"
    return text[:_MAX_ERROR_LENGTH].encode(errors="backslashreplace").decode()


class Task:
    """A task, for the code that works on it. Reporters make tasks.

    Its methods neither block nor wait, and may be called from any thread. What is reported is merged, and sent a few times per
    second at most; changes of stage stay apart.

    Attributes:
        id: The task's id.
        cancelled: Whether cancellation of the task was requested: end soon, for instance by raising TaskCancelled. True or
            false, and an event that threads can wait for.
        failure: What kept a part of its fields from being published for good.
    """

    def __init__(
        self,
        task_id: str | int | None,
        info: Mapping[str, Any],
        note: Callable[["Task"], None],
        *,
        on_error: str = "raise",
        options: CreationOptions = NO_OPTIONS,
    ) -> None:
        """Make a task that has not begun.

        Args:
            task_id: Its id; None for a new one.
            info: Its first fields.
            note: Called when there is something to send; from any thread.
            on_error: ``raise`` or ``log`` what cannot be reported.
            options: Its owner and its parent.

        Raises:
            ValueError, TypeError: The id cannot be one; or, with ``raise``, a field cannot be published.
        """
        self.id = uuid4().hex if task_id is None else str(task_id)
        task_channel(self.id)
        self.cancelled = CancelEvent()
        self._on_end: Callable[[], None] = _nothing
        #: What cannot be reported is raised, not logged.
        self.raises = on_error == "raise"
        self._has_logged = False
        given = {name: value for name, value in info.items() if value is not None}
        self._info = _copied(given) if self.raises else self._publishable(given)
        self._options = options
        self._options_are_due = False  # Redis may not have them
        #: What announces it to every client, where that may not have arrived; and its idempotency key.
        self._announcement: dict[str, Any] | None = None
        self._is_announced_again = False
        self._announcement_key = f"announced:{uuid4().hex}"
        self._note = note
        self._fields: dict[str, Any] = {}  # the last values of all that was ever reported
        self._ended_stages: deque[dict[str, Any]] = deque(maxlen=_MAX_STAGES)  # the fields when each of them ended
        self._stage: str | None = None
        self._is_noted = False
        #: Why nothing can be reported any more.
        self._stopped: Exception | None = None
        # The sender's alone:
        self._taken: dict[str, Any] = {}  # what was taken of the fields
        self._unacknowledged: set[str] = set()  # the names of those that have not arrived
        self._has_ended = False
        #: Of its channel, when an update last arrived.
        self.epoch: str | None = None
        #: When something of it was last sent with success, and when it may be next; monotonic seconds.
        self.last_sent = 0.0
        self.not_before = 0.0
        self.failure: Exception | None = None

    def progress(
        self, progress: float | None = None, message: str | None = None, *, stage: str | None = None, **fields: Any
    ) -> None:
        """Report how far the task is. Costs about a microsecond: call it as often as you like.

        Args:
            progress: Percent, from 0 to 100.
            message: What the task is about just now.
            stage: Name of the stage. Stages stay apart when updates are merged.
            fields: Further fields, published as they are; values that JSON has a form for.

        Progress that is out of range by a rounding error is set to the bound; NaN and the infinities become null in other
        fields. What cannot be published at all, and what is reported after the end, is logged once and left out; reporters
        with ``on_error="raise"`` raise it.

        Raises:
            TaskCancelled: The task's cancellation was requested.
            ValueError, TypeError: With ``on_error="raise"``: something cannot be published.
            RuntimeError: With ``on_error="raise"``: the task has ended.
        """
        if self._stopped is not None:
            self._refuse(self._stopped)
            return
        try:
            if progress is not None and (type(progress) is not int or not 0 <= progress <= 100):
                progress = _percentage(progress)
            if message is not None and type(message) is not str:
                message = str(message)
            if stage is not None and type(stage) is not str:
                stage = str(stage)
            if fields:
                fields = self._checked(fields)
        except Exception as error:
            if self.raises:
                raise
            self.log_dropped("a report", error)
            progress, message, stage, fields = self._publishable_parts(progress, message, stage, fields)
        if stage is not None and stage != self._stage:
            if self._stage is not None:
                self._ended_stages.append(self._fields.copy())  # before anything of the next one is written
            self._fields["stage"] = self._stage = stage
        # Each of these is atomic, and is before the look at `_is_noted`, which the sender resets before it looks at these.
        if progress is not None:
            self._fields["progress"] = progress
        if message is not None:
            self._fields["message"] = message
        if fields:
            self._fields.update(fields)
        if not self._is_noted:
            self._is_noted = True
            self._note(self)

    def _refuse(self, reason: Exception) -> None:
        """Answer a report that comes too late."""
        if self.raises or isinstance(reason, TaskCancelled):
            raise type(reason)(*reason.args)
        self.log_dropped("a report", reason)

    def log_dropped(self, what: str, error: Exception) -> None:
        """Log what is not published; only the first time."""
        if not self._has_logged:
            self._has_logged = True
            _log.warning("task %s: %s is left out, and any further without a log: %s", self.id, what, error_text(error))

    def _publishable_parts(
        self, progress: Any, message: Any, stage: Any, fields: dict[str, Any]
    ) -> tuple[float | None, str | None, str | None, dict[str, Any]]:
        """Return what can be published of a report."""
        return (
            self._converted(_percentage, progress),
            self._converted(str, message),
            self._converted(str, stage),
            self._publishable(fields),
        )

    def _converted(self, convert: Callable[[Any], Any], value: Any) -> Any:
        try:
            return None if value is None else convert(value)
        except Exception as error:  # noqa: BLE001 - also from the value's own methods
            self.log_dropped("a report", error)
            return None

    def _publishable(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of some fields that can be published, as far as there is room."""
        found: dict[str, Any] = {}
        room = MAX_FIELDS - 16 - len(getattr(self, "_fields", ()))
        for name, value in fields.items():
            try:
                if room <= 0:
                    raise ValueError(f"a task has {MAX_FIELDS - 16} fields at most")
                found |= _copied({name: value})
                room -= 1
            except Exception as error:  # noqa: BLE001 - also from the value's own methods
                self.log_dropped(f"field {name!r}", error)
        return found

    def _checked(self, fields: dict[str, Any]) -> dict[str, Any]:
        # With some room for those of this module's own.
        if len(self._fields.keys() | fields.keys()) > MAX_FIELDS - 16:
            raise ValueError(f"a task has {MAX_FIELDS - 16} fields at most")
        return _copied(fields)

    def update(self, **fields: Any) -> None:
        """Report fields; raises as `progress`."""
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
        """Iterate over items, and report after each one how many are done: ``done``, ``total`` and the progress.

        Args:
            items: The items.
            total: Their number; by default their length, where they have one. Without it there is no progress.
            start: The task's progress before the first item, in percent.
            end: The task's progress after the last item, in percent.
            message: As for `progress`.
            stage: As for `progress`.

        Raises:
            ValueError: start and end are out of range. Otherwise as `progress`.
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
        """Iterate with ``async for``; arguments and errors as for `track`."""
        count = _Count(self, items, total, start, end, message, stage)
        async for item in items:
            yield item
            count.one_more()

    def request_cancel(self, reason: str = "") -> None:
        """Have it raise TaskCancelled where it next reports. From any thread."""
        if self._stopped is None:
            self._stopped = TaskCancelled(reason or "its cancellation was requested")
            self.cancelled.set(reason)

    # What follows is for reporters.

    def call_at_end(self, function: Callable[[], None]) -> None:
        """Call a function when nothing is sent of the task any more."""
        self._on_end = function

    def begin(self, updates: Updates, *, announce: bool) -> list[Call]:
        """Return the calls that announce and start it."""
        created = {"status": PENDING, "created_at": utc_now_iso(), **self._info}
        # The whole of it, for those who were subscribed before there was such a task.
        started = {**created, "status": IN_PROGRESS, "started_at": utc_now_iso()}
        if not announce:
            started = {**self._info, "status": IN_PROGRESS, "started_at": started["started_at"]}
        self._announcement = created if announce else None
        calls = self._announced(updates)
        calls += updates.task_update(self.id, started, options=self._options)
        self._fields.update(started)
        self._taken.update(started)
        self.last_sent = self.not_before = monotonic()
        _open_tasks.add(self)
        return calls

    def _announced(self, updates: Updates) -> list[Call]:
        if self._announcement is None:
            return []
        return updates.created(self.id, self._announcement, key=self._announcement_key, options=self._options)

    def has_pending(self) -> bool:
        """Return whether there is something to send."""
        return self._is_noted and not self._has_ended

    def take(self, updates: Updates, put: Callable[[list[Call]], None]) -> list[Call]:
        """Take what is to be sent, and queue it. Raises NotDelivered when there is no room; nothing is taken then."""
        if self._has_ended:
            return []
        calls = self._take(updates)
        try:
            if calls:
                put(calls)
        except NotDelivered:
            self.requeue()
            raise
        return calls

    def _take(self, updates: Updates) -> list[Call]:
        self._is_noted = False
        calls = self._announced(updates) if self._is_announced_again else []
        for part in self._parts():
            try:
                calls += self._update(updates, part)
            except (TypeError, ValueError):  # checked one by one, they are too long together
                calls += self._take_each(updates, part)
            else:
                self._unacknowledged.update(part)
        return calls

    def _parts(self) -> list[dict[str, Any]]:
        """Take what differs from what was taken before: one part for each stage."""
        parts: list[dict[str, Any]] = []
        fields = self._fields
        for _ in range(_MAX_LOOKS):
            while self._ended_stages:
                parts.append(self._difference(self._ended_stages.popleft()))
            fields = self._fields.copy()
            if not self._ended_stages:
                break  # else a stage has ended meanwhile, and comes before these
        parts.append(self._difference(fields))
        return [part for part in parts if part]

    def _difference(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        taken = self._taken
        part = {name: value for name, value in fields.items() if not _is_same(value, taken.get(name, self))}
        taken.update(part)
        return part

    def _update(self, updates: Updates, part: Mapping[str, Any]) -> list[Call]:
        options = self._options if self._options_are_due else NO_OPTIONS
        return updates.task_update(self.id, part, options=options)

    def _take_each(self, updates: Updates, part: Mapping[str, Any]) -> list[Call]:
        calls: list[Call] = []
        for name, value in part.items():
            try:
                calls += self._update(updates, {name: value})
            except (TypeError, ValueError) as error:
                self.failure = error
            else:
                self._unacknowledged.add(name)
        return calls

    def acknowledged(self, now: float) -> None:
        """Note that what was taken has arrived."""
        self._is_announced_again = self._options_are_due = False
        self._unacknowledged.clear()
        self.last_sent = now

    def requeue(self) -> None:
        """Note that what was taken has not arrived: it is to be taken again."""
        for name in self._unacknowledged:
            self._taken.pop(name, None)
        self._unacknowledged.clear()
        self._is_noted = True

    def requeue_beginning(self) -> None:
        """Note that its beginning may not have arrived: it is to be announced and sent again, which Redis recognises."""
        self._is_announced_again = True
        self.requeue_all()

    def requeue_all(self) -> None:
        """Note that Redis has lost the task: all that is known of it is to be taken again."""
        self._options_are_due = True
        self._unacknowledged.update(self._taken)
        self.requeue()

    def end(
        self, updates: Updates, put: Callable[[list[Call]], None], status: str, fields: Mapping[str, Any]
    ) -> list[Call]:
        """Queue its last updates: what is to be sent still, and then its end.

        Raises:
            NotDelivered: There is no room.
            RuntimeError: It has ended before.
            TypeError, ValueError: The fields cannot be published.
        """
        if self._has_ended:
            raise RuntimeError(*(self._stopped.args if self._stopped else ()))
        calls = self._take(updates)
        uncertain = {name: self._fields[name] for name in self._unacknowledged}
        try:
            calls += self._update(updates, {**uncertain, **fields, "status": status})
        except ValueError:  # together they are too long
            calls += self._take_each(updates, uncertain)
            calls += self._update(updates, {**fields, "status": status})
        put(calls)
        self.abandon()
        return calls

    def abandon(self) -> None:
        """Send nothing more of it: it belongs to another worker from now on, or to nobody."""
        self._has_ended = True
        if self._stopped is None:
            self._stopped = RuntimeError(f"task {self.id} has ended")
        on_end, self._on_end = self._on_end, _nothing
        on_end()

    def detach_after_fork(self) -> None:
        """In a forked child: it is the parent's."""
        self._has_ended = True
        self._stopped = RuntimeError(f"task {self.id} is its parent process's; a forked child begins its own")


class _Count:
    """The items that `Task.track` has seen."""

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
        try:
            start, end = _percentage(start), _percentage(end)
            if start > end:
                raise ValueError(f"start and end are from 0 to 100, not {start!r} and {end!r}")
        except (TypeError, ValueError) as error:
            if task.raises:
                raise
            task.log_dropped("the part of its progress", error)
            start, end = 0.0, 100.0
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
    """Return fields that do not change when their values do. Raises TypeError or ValueError for what has no JSON form."""
    return {name: value if type(value) in _PLAIN else _plain(value) for name, value in fields.items()}


def _plain(value: Any) -> Any:
    if type(value) is float:
        return value if isfinite(value) else None
    return plain_copy(value)


def _percentage(progress: Any) -> float:
    """Return progress as a number from 0 to 100. Raises TypeError or ValueError."""
    if isinstance(progress, str | bytes):
        raise TypeError(f"progress is a number from 0 to 100, not {progress!r:.80}")
    number = progress if type(progress) is int or type(progress) is float else float(progress)
    if 0 <= number <= 100:
        return number
    if -_TOLERANCE <= number <= 100 + _TOLERANCE:
        return 0.0 if number < 0 else 100.0
    raise ValueError(f"progress is from 0 to 100, not {progress!r}")


def _is_same(value: object, other: object) -> bool:
    return value is other or (type(value) is type(other) and value == other)


def terminal_fields(error: BaseException | None) -> tuple[str, dict[str, Any]]:
    """Return the status and the last fields of a task that ended with an error, or with none."""
    if error is None:
        return COMPLETED, {"progress": 100, "completed_at": utc_now_iso()}
    if _has_failed(error):
        return FAILED, {"error": error_text(error), "completed_at": utc_now_iso()}
    return CANCELLED, {"completed_at": utc_now_iso()}


def _has_failed(error: BaseException) -> bool:
    """Tell an error from a cancellation: KeyboardInterrupt and the event loops' Cancelled are no Exceptions."""
    if isinstance(error, BaseExceptionGroup):
        return any(_has_failed(each) for each in error.exceptions)
    return isinstance(error, Exception) and not isinstance(error, TaskCancelled)


def _detach_all() -> None:
    for task in tuple(_open_tasks):
        task.detach_after_fork()


os.register_at_fork(after_in_child=_detach_all)
