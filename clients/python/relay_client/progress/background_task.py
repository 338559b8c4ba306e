"""A task whose beginning and end are sent in the background as well: code that reports on it never waits for Redis.

    opening   announcement of a new task, claim   sent with everything that follows, until Redis has acknowledged it
    changes   what is reported meanwhile          merged, as for every task
    closing   the last fields                     sent after all else

Several processes report on one task of a job queue, and their reports may overtake each other: the producer's "it waits" must
not arrive after the worker's "it has begun". So each step that another process takes up has a name, which is the idempotency
key of the update that says it. The process that takes the step up publishes a small update under the same key first: a claim.
Redis takes only the first of the two.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from relay_wire.channels import MAX_FIELDS
from relay_wire.creation import NO_OPTIONS, CreationOptions

from relay_client.progress import forks
from relay_client.progress.task import Task
from relay_client.publishing.call import Call
from relay_client.updates import Updates


@dataclass(frozen=True, slots=True)
class Opening:
    """What is published of a task before anything else.

    Attributes:
        key: Name of the step that is claimed or announced.
        announcement: The first fields of a task that all clients are to know of; None: somebody else has announced it.
        claim: Fields of the claim; None: another process is to take the task up.
        options: The task's owner and its parent.
    """

    key: str
    announcement: Mapping[str, Any] | None = None
    claim: Mapping[str, Any] | None = None
    options: CreationOptions = NO_OPTIONS


#: One for all: it is never raised, and the log names the task.
_HAS_ENDED = RuntimeError("the task has ended")


class BackgroundTask(Task):
    """A task of a `relay_client.progress.background.BackgroundReporter`."""

    def __init__(
        self,
        task_id: str | int,
        note: Callable[[Task], object],
        opening: "Opening | Callable[[], Opening] | None" = None,
    ) -> None:
        """Make a task.

        Args:
            task_id: Its id.
            note: Called when there is something to send; from any thread.
            opening: What is published of it first; or a function that makes it, which the sender's thread calls.

        Raises:
            ValueError, TypeError: The id cannot be one.
        """
        super().__init__(task_id, {}, note, on_error="log", options=NO_OPTIONS)
        self._opening = opening
        self._is_opened = opening is None
        self._closing: tuple[str, dict[str, Any]] | None = None
        # It is looked at when it is handed over: what is reported before that need not be noted.
        self._changes.is_noted = True
        forks.track(self)

    def set_first_fields(self, fields: Mapping[str, Any]) -> None:
        """Set the first fields: what was reported before, by code that did not wait for them, stays."""
        self._changes.set_defaults(self._publishable(fields, MAX_FIELDS))

    def stop(self) -> None:
        """Leave out what is reported from now on."""
        if self._stopped is None or not self.cancelled:
            self._stopped = _HAS_ENDED

    def close(self, fields: Mapping[str, Any], *, key: str | None = None) -> None:
        """Set the last fields, in the sender's thread.

        Args:
            fields: The last fields.
            key: Name of the step which these fields say, where another process may take it up meanwhile.
        """
        checked = self._publishable(fields, MAX_FIELDS)
        if key is None:
            self._changes.merge(None, None, None, checked)
        else:
            self._closing = (key, checked)
            self._changes.merge(None, None, None, None)

    def has_pending(self) -> bool:
        """Return whether there is something to send."""
        return not self._has_ended and (self._changes.is_noted or not self._is_opened)

    def _take(self, updates: Updates) -> list[Call]:
        calls: list[Call] = []
        if not self._is_opened:
            try:
                calls = self._opening_calls(updates)
            except Exception as error:  # noqa: BLE001 - the application's fields and options: too long together, for one
                self.log_dropped("its announcement", error)
                self._is_opened = True
        calls += super()._take(updates)
        if self._closing is not None:
            key, fields = self._closing
            calls += updates.task_update(self.id, fields, key=self._key(key))
        return calls

    def _opening_calls(self, updates: Updates) -> list[Call]:
        calls: list[Call] = []
        opening = self._opening
        if callable(opening):
            opening = self._opening = opening()
        if opening is None:
            return calls
        if opening.options is not NO_OPTIONS and self._options is not opening.options:
            self._options, self._options_are_due = opening.options, True
        if opening.announcement is not None:
            announcement = self._publishable(opening.announcement, MAX_FIELDS)
            calls += updates.created(self.id, announcement, key=self._key(opening.key), options=opening.options)
        if opening.claim is not None:
            calls += updates.task_update(self.id, opening.claim, key=self._key(opening.key), options=opening.options)
        return calls

    def _key(self, step: str) -> str:
        """Return the idempotency key of a step. Announcements of all tasks are updates of one channel: it has the id in it."""
        return f"{step}:{self.id}"

    def acknowledged(self, now: float) -> None:
        """Note that what was taken has arrived."""
        self._is_opened = True
        super().acknowledged(now)
