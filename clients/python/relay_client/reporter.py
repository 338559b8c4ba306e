"""Reporting on tasks from threads.

reporter = TaskReporter()
with reporter("task-123", title="A picture") as task:
    task.progress(40, "Rendering", stage="image_started")
    for line in task.track(lines):
        ...
"""

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

from relay_wire.creation import CreationOptions, creation_options

from relay_client import environment
from relay_client.cancellation.threads import CancelListener
from relay_client.errors import BufferFull, NotDelivered
from relay_client.progress.block import BUFFER_FULL_PAUSE, checked_on_error, report_failure, report_lost_end
from relay_client.progress.current import as_current
from relay_client.progress.outcome import terminal_fields
from relay_client.progress.schedule import Schedule
from relay_client.progress.task import Task
from relay_client.publisher import Publisher
from relay_client.publishing.call import Call
from relay_client.publishing.sender import Put

_log = logging.getLogger("relay_client")


class TaskReporter:
    """Reports on tasks to a relay's clients, from any number of threads. Making one does not connect.

    The publisher's thread sends what all tasks report. Updates that Redis did not take by the publisher's deadline are merged
    with what comes later, and tried again.

    A forked child may use it for tasks of its own; those that its parent has begun stay the parent's.
    """

    def __init__(
        self,
        publisher: Publisher | str | None = None,
        *,
        rate: float = 10.0,
        heartbeat: float | None = None,
        on_error: str | None = None,
        cancel_timeout: float = 2.0,
        end_timeout: float = 120.0,
        cancellable: bool = False,
    ) -> None:
        """Make a reporter.

        Args:
            publisher: By which it reports, or the URL of a Redis; by default as `Publisher` finds it.
            rate: Updates of each task per second, at most 1000; what is reported more often is merged.
            heartbeat: Seconds without an update after which a heartbeat is sent; by default a third of
                ``RELAY_TASK_STALL_SECONDS``, after which a relay shows a task as stalled.
            on_error: ``log``: reporting never raises, so that it cannot break the work. What cannot be published is left out, a
                beginning that Redis does not take by the deadline is sent later, and an end that it does not take within
                ``end_timeout`` is lost; all of that is logged. ``raise``: each of these raises. By default what
                ``RELAY_ON_ERROR`` says for the whole process, else ``log``.
            cancel_timeout: Seconds for sending that a task was cancelled, or interrupted.
            end_timeout: Seconds for sending the end of a task when errors are logged, at most 150: the block waits that long
                for a Redis that is away.
            cancellable: Watchers may cancel the tasks, over the relay's HTTP API. Then
                `Task.cancelled` is true, and the task raises `TaskCancelled` where it next reports. It takes one more
                connection, and a thread. Watchers see the field ``cancellable``.

        Raises:
            ValueError: A number is out of range, or the environment cannot be right.
        """
        self.publisher = publisher if isinstance(publisher, Publisher) else Publisher(publisher)
        self._owns_publisher = not isinstance(publisher, Publisher)
        self._rate = rate
        self._heartbeat = environment.stall_seconds() / 3 if heartbeat is None else heartbeat
        self._on_error = checked_on_error(on_error)
        self._cancel_timeout = cancel_timeout
        self._end_timeout = end_timeout
        self._cancellable = cancellable
        self._cancel_listener = CancelListener(self.publisher.target)
        self.reset()
        _reporters.add(self)

    def reset(self) -> None:
        """Begin without tasks: at first, and in a forked child."""
        self._schedule = Schedule(self.publisher.updates, self._rate, self._heartbeat)

    @contextmanager
    def __call__(
        self,
        task_id: str | int | None = None,
        /,
        *,
        announce: bool = True,
        owner: str | Iterable[str] | None = None,
        parent_id: str | int | None = None,
        **info: Any,
    ) -> Iterator[Task]:
        """Open a block that is a task: created and started when it begins, completed when it ends.

        An error makes the task ``failed``, with the error's text; KeyboardInterrupt, SystemExit and `TaskCancelled` make it
        ``cancelled``. Either is raised on.

        Args:
            task_id: Its id; by default a new one.
            announce: Notify every client that there is a new task, by a general update ``task_created``.
            owner: The ids of the users and groups that own it, or one of them.
            parent_id: The id of the task that it is a part of.
            info: Its first fields, for instance ``title``.

        Raises:
            NotDelivered: Redis did not take that it begins, or ends.
            ValueError, TypeError: The id or a field cannot be published.
        """
        task = self._new_task(task_id, info, creation_options(owner, parent_id))
        try:
            self._start(task, announce=announce)
        except NotDelivered as error:
            if task.raises:
                raise
            _log.warning("task %s: its beginning is not delivered yet, and tried again: %s", task.id, error)
            task.requeue_beginning()
            self._schedule_soon(task)
        except Exception:
            raise
        except BaseException as error:
            task.requeue_beginning()  # it may have begun, or not
            self._end_block(task, error)
            raise
        try:
            with as_current(task):
                yield task
        except BaseException as error:
            self._end_block(task, error)
            raise
        self._end_block(task, None)

    def _end_block(self, task: Task, error: BaseException | None) -> None:
        try:
            if error is not None and not isinstance(error, Exception):
                self.end(task, *terminal_fields(error), timeout=self._cancel_timeout)
            elif task.raises:
                self.end(task, *terminal_fields(error))
            else:
                self._end_with_retries(task, error)
        except NotDelivered as lost:
            report_lost_end(task, error, lost)
        report_failure(task, error)

    def _end_with_retries(self, task: Task, error: BaseException | None) -> None:
        deadline = monotonic() + self._end_timeout
        while True:
            try:
                self.end(task, *terminal_fields(error), timeout=deadline - monotonic())
            except BufferFull:
                if monotonic() + BUFFER_FULL_PAUSE >= deadline:
                    raise
                time.sleep(BUFFER_FULL_PAUSE)
            else:
                return

    def begin(
        self,
        task_id: str | int | None,
        info: Mapping[str, Any],
        *,
        announce: bool = True,
        owner: str | Iterable[str] | None = None,
        parent_id: str | int | None = None,
    ) -> Task:
        """Begin a task that `end` is to end, for programs in which a block does not fit.

        As calling the reporter, but that it raises NotDelivered in any case.
        """
        task = self._new_task(task_id, info, creation_options(owner, parent_id))
        self._start(task, announce=announce)
        return task

    def _new_task(self, task_id: str | int | None, info: Mapping[str, Any], options: CreationOptions) -> Task:
        if self._cancellable:
            info = {**info, "cancellable": True}
        return Task(task_id, info, self._note, on_error=self._on_error, options=options)

    def _start(self, task: Task, *, announce: bool) -> None:
        calls = task.begin(self.publisher.updates, announce=announce)
        self.publisher.sender.deliver(calls)
        for call in calls:
            call.outcome()
        self._schedule_soon(task)

    def _schedule_soon(self, task: Task) -> None:
        if self._cancellable:
            task.call_at_end(self._cancel_listener.watch(task.id, task.request_cancel).close)
        sender, schedule = self.publisher.sender, self._schedule

        def add() -> None:
            sender.add_source(schedule)
            schedule.add(task)

        sender.run_soon(add)

    def end(self, task: Task, status: str, fields: Mapping[str, Any], *, timeout: float | None = None) -> None:
        """End a task, or hand it back with a status that is not terminal.

        Args:
            task: The task.
            status: Its last status.
            fields: Its last fields.
            timeout: Seconds until the deadline, where it is not the publisher's.

        Raises:
            NotDelivered: Redis did not take it.
            RuntimeError: The task has ended before.
        """
        schedule, updates = self._schedule, self.publisher.updates
        task.note_trace()

        def make(put: Put) -> Sequence[Call]:
            self._remove(schedule, task)
            return task.end(updates, put, status, fields)

        calls = self.publisher.sender.build_and_deliver(make, timeout)
        if calls:
            calls[-1].outcome()

    def abandon(self, task: Task) -> None:
        """Send nothing more of a task: it belongs to another worker now."""
        schedule = self._schedule

        def abandon() -> None:
            self._remove(schedule, task)
            task.abandon()

        self.publisher.sender.run_soon(abandon)

    def _remove(self, schedule: Schedule, task: Task) -> None:
        schedule.remove(task)
        if schedule.is_empty:
            self.publisher.sender.remove_source(schedule)

    def _note(self, task: Task) -> None:
        sender = self.publisher.sender
        if self._schedule.note(task) or not sender.is_running:
            sender.wake_soon()

    def close(self) -> None:
        """Close the publisher, where it is the reporter's own. Tasks that have not ended cannot be reported on any more."""
        self._cancel_listener.close()
        if self._owns_publisher:
            self.publisher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_reporters: "WeakSet[TaskReporter]" = WeakSet()


def _reset_in_child() -> None:
    for reporter in tuple(_reporters):
        reporter.reset()


os.register_at_fork(after_in_child=_reset_in_child)
