"""Reporting on tasks from threads.

reporter = TaskReporter()
with reporter("task-123", title="A picture") as task:
    task.progress(40, "Rendering", stage="image_started")
    for line in task.track(lines):
        ...
"""

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from types import TracebackType
from typing import Any, Self

from relay_client import environment
from relay_client.delivery.call import Call
from relay_client.errors import NotDelivered
from relay_client.publisher import Publisher
from relay_client.reporting.schedule import Schedule
from relay_client.reporting.task import Task, end_of

_log = logging.getLogger("relay_client")


class TaskReporter:
    """Tells a relay's clients how tasks go on, from any number of threads. Making one does not connect.

    publisher:        by which it reports, or the URL of a Redis; by default as `Publisher` finds it
    rate:             updates of each task in a second, at most; what is reported more often is merged
    heartbeat:        seconds without an update after which a sign of life is sent; by default a third of
                      ``RELAY_TASK_STALL_SECONDS``, after which a relay takes a task for stalled
    cancelled_within: seconds for telling that a task was cancelled, or interrupted

    One background thread for all its tasks sends what they report. Updates that Redis did not take by the publisher's deadline
    are merged with what comes later and tried again; what cannot be told when a task begins or ends is raised, as
    `relay_client.NotDelivered`.

    A forked child may use it for tasks of its own; those that its parent has begun stay the parent's.
    """

    def __init__(
        self,
        publisher: Publisher | str | None = None,
        *,
        rate: float = 10.0,
        heartbeat: float | None = None,
        cancelled_within: float = 2.0,
    ) -> None:
        self.publisher = publisher if isinstance(publisher, Publisher) else Publisher(publisher)
        self._owns_publisher = not isinstance(publisher, Publisher)
        self._rate = rate
        self._heartbeat = environment.stall_seconds() / 3 if heartbeat is None else heartbeat
        self._cancelled_within = cancelled_within
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._schedule = Schedule(self.publisher.updates, self._rate, self._heartbeat)
        self._mutex = threading.Lock()  # of the schedule; held for moments
        self._work = threading.Event()
        self._thread: threading.Thread | None = None

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            self._begin()

    @contextmanager
    def __call__(self, task_id: str | int | None = None, /, *, announce: bool = True, **info: Any) -> Iterator[Task]:
        """A task for the time of the block: created and started when it begins, completed when it ends.

        task_id:  by default a new one
        announce: tell every client that there is a new task, as a general update ``task_created``
        info:     its first fields, for instance ``title``

        An error makes it ``failed``, with the error's text; KeyboardInterrupt, SystemExit and `TaskCancelled` make it
        ``cancelled``. Either is raised on. Raises NotDelivered when Redis does not take that it begins, or ends.
        """
        task = Task(task_id, info, self._note)
        try:
            self._start(task, announce=announce)
        except Exception:
            raise
        except BaseException as error:
            task.put_all_back()  # it may have begun, or not
            self._end_with(task, error)
            raise
        try:
            yield task
        except BaseException as error:
            self._end_with(task, error)
            raise
        self.end(task, *end_of(None))
        if task.failure is not None:
            raise task.failure

    def _end_with(self, task: Task, error: BaseException) -> None:
        within = None if isinstance(error, Exception) else self._cancelled_within
        try:
            self.end(task, *end_of(error), within=within)
        except NotDelivered as lost:
            _log.error("task %s: its end was not told: %s", task.id, lost)
            error.add_note(f"Relay was not told of it: {lost}")

    def begin(self, task_id: str | int | None, info: Mapping[str, Any], *, announce: bool = True) -> Task:
        """Begin a task that `end` is to end: for programs in which a block does not fit. Otherwise as calling the reporter."""
        task = Task(task_id, info, self._note)
        self._start(task, announce=announce)
        return task

    def _start(self, task: Task, *, announce: bool) -> None:
        self._check_process()
        calls = task.begin(self.publisher.updates, announce=announce)
        self.publisher.courier.deliver(calls)
        for call in calls:
            call.outcome()
        with self._mutex:
            self._schedule.add(task)
            if self._thread is None:
                self._thread = threading.Thread(target=self._send, name="relay-reporter", daemon=True)
                self._thread.start()
        self._work.set()

    def end(self, task: Task, status: str, fields: Mapping[str, Any], *, within: float | None = None) -> None:
        """End a task, or hand it back (a status that is not terminal), with last fields. within: seconds, where these are not
        the publisher's. Raises NotDelivered; and RuntimeError when it has ended already."""
        self._check_process()
        with self._mutex:
            self._schedule.remove(task)
        courier = self.publisher.courier
        calls = task.end(self.publisher.updates, lambda calls: courier.put(calls, within), status, fields)
        courier.carry_out(calls)
        calls[-1].outcome()

    def abandon(self, task: Task) -> None:
        """Send nothing more of a task: it is another's now."""
        with self._mutex:
            self._schedule.remove(task)
        task.abandon()

    def _note(self, task: Task) -> None:
        self._schedule.note(task)
        self._work.set()

    def _send(self) -> None:
        """The thread: send what is due, as long as there are tasks."""
        courier = self.publisher.courier
        while (wait := self._wait()) is not None:
            self._work.wait(wait)
            self._work.clear()
            with self._mutex:
                sending = self._schedule.put_due(monotonic(), courier.put)
            calls: list[Call] = [call for each in sending for call in each.calls]
            if calls:
                courier.carry_out(calls)
                with self._mutex:
                    self._schedule.settle(sending)

    def _wait(self) -> float | None:
        """How long the thread may sleep; None: it is to end."""
        with self._mutex:
            wait = self._schedule.wait(monotonic())
            if wait is None:
                self._thread = None
            return wait

    def close(self) -> None:
        """Close the publisher, where it is the reporter's own. Tasks that have not ended can be told of no more."""
        if self._owns_publisher:
            self.publisher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
