"""A job of a queue as the integrations describe it, and what of it becomes the task's owner, title and further fields."""

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypedDict

from relay_wire.creation import NO_OPTIONS, CreationOptions, creation_options

from relay_client.publisher import Publisher

_log = logging.getLogger("relay_client")

#: Seconds within which Redis recognises a second announcement, less some for clocks that differ.
_RECOGNISED_SECONDS = 240.0


class Arguments(Mapping[str | int, Any]):
    """The arguments of a job, by name; those whose names are not known, by their place, from 0.

    Attributes:
        task: Name of the job's function.
        id: Id of the job.
        queue: Name of its queue; empty where that is not known.
    """

    def __init__(self, task: str, job_id: str, queue: str, values: Mapping[str | int, Any]) -> None:
        self.task = task
        self.id = job_id
        self.queue = queue
        self._values = values

    def __getitem__(self, name: str | int) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str | int]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def named(
    function: Callable[..., Any] | None, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None
) -> dict[str | int, Any]:
    """Return the arguments of a call by name, as far as they are known, else by their place."""
    values: dict[str | int, Any] = dict(enumerate(args or ()))
    values.update((kwargs or {}).items())
    if function is not None and args:
        try:
            bound = inspect.signature(function).bind_partial(*args, **(kwargs or {}))
        except (TypeError, ValueError):
            return values
        values.update(bound.arguments.items())
    return values


class Job(NamedTuple):
    """A job. A tuple, for one is made with every report: a frozen dataclass takes four times as long.

    Attributes:
        id: Its id, which is the task's.
        name: Name of its function.
        arguments: Returns its arguments; asked only where something is made of them.
        queue: Name of its queue.
        attempt: The how-manieth attempt this is, from 1.
        max_attempts: How many there may be; None where that is not known.
        worker: Who works on it.
        parent_id: The task that it is a part of.
        is_announced: The process that has enqueued it has announced it.
    """

    id: str
    name: str
    arguments: Callable[[], Mapping[str | int, Any]] = dict
    queue: str = ""
    attempt: int = 1
    max_attempts: int | None = None
    worker: str = ""
    parent_id: str | None = None
    is_announced: bool = False


def was_enqueued_long_ago(when: datetime | None) -> bool:
    """Return whether a job counts as announced because it has waited for so long.

    Where a job has no place for a note that it was announced, the worker announces it again. Redis recognises that for a while
    only, and afterwards the announcement that is certain to be there is not repeated.

    Args:
        when: When it was enqueued, with a time zone; None: that is not known.
    """
    return when is not None and (datetime.now(UTC) - when).total_seconds() > _RECOGNISED_SECONDS


class JobOptions(TypedDict, total=False):
    """What every integration takes. The functions are called with a job's `Arguments`, which are published in no other way.

    Attributes:
        publisher: By which it reports, or the URL of a Redis; by default as `relay_client.Publisher` finds it.
        owner: Returns who owns the task, for instance ``lambda arguments: f"user:{arguments['user_id']}"``; one or several.
        title: Returns the task's title; by default the last part of the function's name.
        fields: Returns further fields of the task.
        select: Returns whether the job is to be reported at all.
        cancellable: Whether watchers may cancel tasks, over the relay's HTTP API; by default they may. It takes each worker one
            more connection, and a thread.
        exit_timeout: Seconds for which the end of a process waits for what is not sent yet; by default 3.
    """

    publisher: Publisher | str
    owner: Callable[[Arguments], str | Iterable[str] | None]
    title: Callable[[Arguments], str]
    fields: Callable[[Arguments], Mapping[str, Any]]
    select: Callable[[Arguments], bool]
    cancellable: bool
    exit_timeout: float


class Given(NamedTuple):
    """What the application's functions say about a job.

    Attributes:
        title: The task's title, if it is not that of the job's function.
        fields: Further fields.
        options: The task's owner and its parent.
    """

    title: str | None = None
    fields: Mapping[str, Any] | None = None
    options: CreationOptions = NO_OPTIONS


#: Most applications give no functions, and most jobs have no parent.
NOTHING_GIVEN = Given()


class JobMapping:
    """Makes a task's owner, title and fields of a job, by the functions that the application gives.

    A function that raises is logged the first time, and its part is left out: it must not keep a job from running.
    """

    def __init__(self, options: JobOptions) -> None:
        self._owner = options.get("owner")
        self._title = options.get("title")
        self._fields = options.get("fields")
        self._select = options.get("select")
        self._has_functions = bool(self._owner or self._title or self._fields)
        self._has_logged = False

    def is_selected(self, job: Job) -> bool:
        """Return whether a job is to be reported."""
        return self._select is None or bool(self._call(self._select, job))

    def given(self, job: Job) -> Given:
        """Return what the application says about a job. In the thread that reports it: its arguments may change later."""
        if not self._has_functions and job.parent_id is None:
            return NOTHING_GIVEN
        title = None if self._title is None else self._call(self._title, job)
        fields = None if self._fields is None else self._call(self._fields, job)
        return Given(title, fields, self._options(job))

    def _options(self, job: Job) -> CreationOptions:
        """Return the task's owner and its parent. A task whose owner cannot be found out belongs to nobody."""
        parent_id = None if job.parent_id == job.id else job.parent_id
        if self._owner is None:
            return creation_options(None, parent_id)
        owner = self._call(self._owner, job)
        owners = [] if owner is None else [owner] if isinstance(owner, str | int) else owner
        return creation_options([str(each) for each in owners], parent_id)

    def _call(self, function: Callable[[Arguments], Any], job: Job) -> Any:
        try:
            return function(Arguments(job.name, job.id, job.queue, job.arguments()))
        except Exception:  # noqa: BLE001 - the application's own function
            if not self._has_logged:
                self._has_logged = True
                _log.exception(
                    "job %s of %s: a function for the relay failed; further errors are not logged", job.id, job.name
                )
            return None


def described(job: Job, given: Given) -> dict[str, Any]:
    """Return the fields that describe a job's task."""
    fields = {**(given.fields or {}), "title": given.title or job.name.rpartition(".")[2], "kind": job.name}
    if job.queue:
        fields["queue"] = job.queue
    return fields
