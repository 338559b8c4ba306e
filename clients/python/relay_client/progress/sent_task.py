"""One task as its sender sees it: what was reported is taken, sent, acknowledged or taken again, and its end is sent last."""

import os
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from relay_wire.creation import NO_OPTIONS, CreationOptions
from relay_wire.statuses import IN_PROGRESS, PENDING

from relay_client import tracing
from relay_client.errors import NotDelivered
from relay_client.field_operations import literal
from relay_client.progress import forks
from relay_client.progress.appends import Appends
from relay_client.progress.changes import FieldChanges
from relay_client.progress.values import utc_now_iso
from relay_client.publishing.call import Call
from relay_client.updates import Updates


def _nothing() -> None:
    """Nothing is to be done at the task's end."""


class SentTask:
    """The sending half of a task; `relay_client.progress.task.Task` is what code reports to.

    All of it is left to the sender: its thread, or its event loop.

    Attributes:
        id: The task's id.
        epoch: The epoch of its channel, when an update last arrived.
        last_sent: When something of it was last sent with success; monotonic seconds.
        not_before: When something of it may be sent next; monotonic seconds.
    """

    # What most tasks never change is the class's, for a job waits while its task is made.
    epoch: str | None = None
    last_sent = 0.0
    not_before = 0.0
    _options_are_due = False  # Redis may not have them
    #: What announces it to every client, where that may not have arrived; and its idempotency key.
    _announcement: dict[str, Any] | None = None
    _is_announced_again = False
    _announcement_key = ""  # made when it is needed: random bytes take a while
    #: The context of the sampled span in which something was reported last that is still to be sent.
    _trace_context: Any = None
    #: Why nothing can be reported any more.
    _stopped: Exception | None = None
    _has_ended = False
    _failure: Exception | None = None
    _on_end: Callable[[], None] = staticmethod(_nothing)

    def __init__(self, task_id: str, options: CreationOptions) -> None:
        """Make a task of which nothing was sent.

        Args:
            task_id: Its id.
            options: Its owner and its parent.
        """
        self.id = task_id
        #: Its first fields.
        self._info: dict[str, Any] = {}
        self._options = options
        self._changes = FieldChanges()

    @property
    def _appends(self) -> Appends:
        """What is appended: made when it is first needed, which it is for few tasks, in one step for whichever thread asks."""
        made: Appends | None = vars(self).get("_made_appends")
        return vars(self).setdefault("_made_appends", Appends()) if made is None else made

    @property
    def failure(self) -> Exception | None:
        """What kept a part of its fields from being published for good."""
        return self._failure or self._appends.failure

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
        self._changes.set_first_fields(started)
        self.last_sent = self.not_before = monotonic()
        forks.track(self)
        return calls

    def _announced(self, updates: Updates) -> list[Call]:
        if self._announcement is None:
            return []
        self._announcement_key = self._announcement_key or f"announced:{os.urandom(16).hex()}"
        return updates.created(self.id, self._announcement, key=self._announcement_key, options=self._options)

    def has_pending(self) -> bool:
        """Return whether there is something to send."""
        return (self._changes.is_noted or self._appends.has_pending()) and not self._has_ended

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

    def note_trace(self) -> None:
        """Note that something is reported in the present span, if there is one that is sampled."""
        context = tracing.current()
        if context is not None:
            self._trace_context = context

    def _take(self, updates: Updates) -> list[Call]:
        context, self._trace_context = self._trace_context, None
        with tracing.within(context):
            return self._take_changes(updates)

    def _take_changes(self, updates: Updates) -> list[Call]:
        calls = self._announced(updates) if self._is_announced_again else []
        appending = self._appends.take(self.id, updates)
        for part in self._changes.take():
            try:
                calls += self._update(updates, part)
            except (TypeError, ValueError):  # checked one by one, they are too long together
                calls += self._take_each(updates, part)
            else:
                self._changes.sending(part)
        # After the fields: if Redis has lost the task, these give it its owner again.
        return calls + appending

    def _update(self, updates: Updates, part: Mapping[str, Any]) -> list[Call]:
        options = self._options if self._options_are_due else NO_OPTIONS
        fields = {name: literal(value) for name, value in part.items()}
        return updates.task_update(self.id, fields, options=options)

    def _take_each(self, updates: Updates, part: Mapping[str, Any]) -> list[Call]:
        calls: list[Call] = []
        for name, value in part.items():
            try:
                calls += self._update(updates, {name: value})
            except (TypeError, ValueError) as error:
                self._failure = error
            else:
                self._changes.sending((name,))
        return calls

    def acknowledged(self, now: float) -> None:
        """Note that what was taken has arrived."""
        self._is_announced_again = self._options_are_due = False
        self._changes.acknowledged()
        self._appends.acknowledged()
        self.last_sent = now

    def requeue(self) -> None:
        """Note that what was taken has not arrived: it is to be taken again."""
        self._changes.requeue()
        self._appends.requeue()

    def requeue_beginning(self) -> None:
        """Note that its beginning may not have arrived: it is to be announced and sent again, which Redis recognises."""
        self._is_announced_again = True
        self.requeue_all()

    def requeue_all(self) -> None:
        """Note that Redis has lost the task: all that is known of it is to be taken again."""
        self._options_are_due = True
        self._changes.requeue_all()
        self._appends.requeue_all()

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
        context = self._trace_context
        calls = self._take(updates)
        while appending := self._appends.take_more(self.id, updates):
            calls += appending
        uncertain = {name: self._changes.fields[name] for name in self._changes.unacknowledged}
        with tracing.within(context):
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
