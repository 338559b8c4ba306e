"""One task as its worker sees it: what it reports is merged here until a reporter sends it.

The values that differ from those taken last are sent; what was taken and not delivered counts as not taken
(`relay_client.progress.changes`); and the update that ends the task carries all that is not acknowledged. So the last value is
never lost, however much is merged.

Any thread, signal handler or finalizer may report. Taking, acknowledging and ending is left to the sender: its thread, or its
event loop.
"""

import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar
from uuid import uuid4

from relay_wire.channels import MAX_FIELDS
from relay_wire.creation import NO_OPTIONS, CreationOptions

from relay_client.cancellation.event import CancelEvent
from relay_client.encoding import plain_copy
from relay_client.progress.outcome import TaskCancelled, error_text
from relay_client.progress.sent_task import SentTask
from relay_client.progress.tracking import ItemCounter, checked_range
from relay_client.progress.values import is_plain, percentage, plain_fields
from relay_client.updates import task_channel

_log = logging.getLogger("relay_client")

_T = TypeVar("_T")

#: Most fields that code may report of one task: there is some room left for those of reporters, such as ``completed_at``.
_MAX_OWN_FIELDS = MAX_FIELDS - 16


class Task(SentTask):
    """A task, for the code that works on it. Reporters make tasks.

    Its methods neither block nor wait, and may be called from any thread. What is reported is merged, and sent a few times per
    second at most; changes of stage stay apart.

    Attributes:
        id: The task's id.
        cancelled: Whether cancellation of the task was requested: end soon, for instance by raising TaskCancelled. True or
            false, and an event that threads can wait for.
    """

    def __init__(
        self,
        task_id: str | int | None,
        info: Mapping[str, Any],
        note: Callable[["Task"], object],
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
        super().__init__(uuid4().hex if task_id is None else str(task_id), options)
        task_channel(self.id)
        self.cancelled = CancelEvent()
        #: What cannot be reported is raised, not logged.
        self.raises = on_error == "raise"
        self._has_logged = False
        if info:
            given = {name: value for name, value in info.items() if value is not None}
            self._info = plain_fields(given) if self.raises else self._publishable(given)
        self._note = note

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
                progress = percentage(progress)
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
        if self._changes.merge(progress, message, stage, fields):
            self.note_trace()
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
            self._converted(percentage, progress),
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

    def _publishable(self, fields: Mapping[str, Any], limit: int = _MAX_OWN_FIELDS) -> dict[str, Any]:
        """Return those of some fields that can be published, as far as there is room; limit: for all fields of the task."""
        known = self._changes.fields
        room = limit - len(known)
        if len(fields) <= room and is_plain(fields):
            return dict(fields)
        found: dict[str, Any] = {}
        for name, value in fields.items():
            try:
                if room <= 0 and name not in known:
                    raise ValueError(f"a task has {_MAX_OWN_FIELDS} fields at most")
                found |= plain_fields({name: value})
                room -= name not in known
            except Exception as error:  # noqa: BLE001 - also from the value's own methods
                self.log_dropped(f"field {name!r}", error)
        return found

    def _checked(self, fields: dict[str, Any]) -> dict[str, Any]:
        if len(self._changes.fields.keys() | fields.keys()) > _MAX_OWN_FIELDS:
            raise ValueError(f"a task has {_MAX_OWN_FIELDS} fields at most")
        self._appends.plain(fields)
        return plain_fields(fields)

    def append(self, name: str, delta: str | list[Any]) -> None:
        """Append to a field that grows, such as the answer of a language model. Watchers get what is new, not the whole again.

        Pieces are joined while they wait to be sent. Each is appended once, also when Redis was away meanwhile.

        Args:
            name: The field's name. A field either grows or is reported as a whole.
            delta: Text for a text, or a list of further elements for a list.

        Raises:
            TaskCancelled: The task's cancellation was requested.
            ValueError, TypeError: With ``on_error="raise"``: it cannot be appended, or the task is full.
            RuntimeError: With ``on_error="raise"``: the task has ended.
        """
        if self._stopped is not None:
            self._refuse(self._stopped)
            return
        try:
            if not isinstance(delta, str | list):
                raise TypeError(f"text or a list can be appended, not {type(delta).__name__}")
            if name in self._changes.fields or name in ("status", "stage", "message", "progress"):
                raise ValueError(f"the field {name!r} is reported as a whole; it cannot be appended to")
            self._appends.add(name, delta if isinstance(delta, str) else plain_copy(delta))
        except (TypeError, ValueError) as error:
            if self.raises:
                raise
            self.log_dropped(f"a piece of {name!r}", error)
            return
        self.note_trace()
        self._note(self)

    def message(self, message: str) -> None:
        """Report what the task is about just now; raises as `progress`."""
        self.progress(None, message)

    def stage(self, stage: str, message: str | None = None) -> None:
        """Report that a stage of the task begins; raises as `progress`."""
        self.progress(None, message, stage=stage)

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
        counter = self._counter(items, total, start, end)
        counter.begin(message, stage)
        for item in items:
            yield item
            counter.count()

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
        counter = self._counter(items, total, start, end)
        counter.begin(message, stage)
        async for item in items:
            yield item
            counter.count()

    def _counter(self, items: object, total: int | None, start: float, end: float) -> ItemCounter:
        try:
            start, end = checked_range(start, end)
        except (TypeError, ValueError) as error:
            if self.raises:
                raise
            self.log_dropped("the part of its progress", error)
            start, end = 0.0, 100.0
        return ItemCounter(self.progress, items, total, start, end)

    def request_cancel(self, reason: str = "") -> None:
        """Have it raise TaskCancelled where it next reports. From any thread."""
        if self._stopped is None:
            self._stopped = TaskCancelled(reason or "its cancellation was requested")
            self.cancelled.set(reason)
