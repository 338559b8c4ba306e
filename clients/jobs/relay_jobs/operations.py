"""The operations of a manager, without I/O: each yields calls to execute before it goes on, or seconds to wait.

`relay_jobs.manager` executes them for threads, `relay_jobs.aio` for asyncio.
"""

import json
from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeVar
from uuid import uuid4

from relay_client.encoding import decode_fields
from relay_client.progress.values import utc_now_iso
from relay_client.publishing.call import Call
from relay_client.updates import Updates, task_channel
from relay_wire import cancellation, keys, retries
from relay_wire.channels import TASK_PREFIX
from relay_wire.creation import NO_OPTIONS, CreationOptions
from relay_wire.publications import to_text
from relay_wire.statuses import CANCELLED, FAILED, TERMINAL

from relay_jobs import queue
from relay_jobs.errors import BacklogFull, TaskExists
from relay_jobs.job import BadJob, checked_kind, decoded, new_job

T = TypeVar("T")
Operation = Generator[list[Call] | float, None, T]

#: Seconds between two looks whether a task has ended: at first, and at most.
_MIN_POLL, _MAX_POLL = 0.05, 1.0

#: Tasks that `listed` looks at, at most: altogether, of each bucket, and in one round trip.
_MAX_SCAN, _MAX_SCAN_BUCKET, _PAGE = 5000, 1000, 100


@dataclass(frozen=True, slots=True)
class TaskState:
    """The state of a task.

    Attributes:
        task_id: Its id.
        fields: Its fields, as watchers see them.
        active: Time of its last activity, in seconds of the Unix epoch; None where a list was not asked for.
    """

    task_id: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    active: float | None = None

    @property
    def status(self) -> str | None:
        """``pending``, ``in_progress``, ``completed``, ``failed``, ``cancelled``, or what another program published."""
        status = self.fields.get("status")
        return status if isinstance(status, str) else None

    @property
    def has_ended(self) -> bool:
        """Whether the task is completed, failed or cancelled."""
        return self.status in TERMINAL


def announcement_key(task_id: str, token: str) -> str:
    """Return the idempotency key of a task's announcement: by its creator, or by a worker that finds none."""
    return f"created:{task_id}:{token}"


def created(
    updates: Updates,
    max_backlog: int,
    kind: str,
    params: Mapping[str, Any],
    title: str | None,
    task_id: str | None,
    fields: Mapping[str, Any],
    options: CreationOptions = NO_OPTIONS,
) -> Operation[str]:
    """Create a task: take it in, announce it, and only then show it to workers.

    A creator that dies in between leaves the task to a worker, which announces it.
    """
    if task_id is not None:
        task_channel(task_id)
        if (yield from fetched(task_id)) is not None:
            raise TaskExists(f"there is a task {task_id!r} already: choose another id, or leave it out")
    name = task_id or uuid4().hex
    job = new_job(name, checked_kind(kind), params, title, fields, options)
    body = job.encoded()
    if len(body) > updates.max_bytes:
        raise ValueError(f"a task has {updates.max_bytes} bytes at most (RELAY_MAX_UPDATE_BYTES), not {len(body)}")
    announcement = updates.created(name, job.info, announcement_key(name, job.info["created_at"]), options)
    taken = queue.reserve(name, kind, body, uuid4().hex, max_backlog)
    yield [taken]
    if taken.outcome() < 0:
        raise BacklogFull(f"{max_backlog} tasks of kind {kind!r} wait or run already: try later, or start more workers")
    if not taken.outcome():
        raise TaskExists(f"there is a task {name!r} already: choose another id, or leave it out")
    handed = queue.ready(name, kind)
    yield [*announcement, handed]
    for call in (*announcement, handed):
        call.outcome()
    return name


def cancelled(updates: Updates, task_id: str) -> Operation[bool]:
    """Request a task's cancellation; one that waits is cancelled at once. False if it has ended or is unknown."""
    task_channel(task_id)
    # The first reaches the next worker that claims it, the second the worker that has it now.
    request, notification = queue.cancel(task_id), _cancel_request(task_id)
    yield [request, notification]
    where, body, token = request.outcome()
    if where == "waiting":
        try:
            kind = decoded(task_id, body).kind
        except BadJob:
            return True  # the worker that finds it ends it
        # Published first, then dropped: if we die in between, a worker finds it marked, and does both.
        published = updates.task_update(task_id, ending(CANCELLED), key=cancellation_key(task_id, token))
        yield published
        published[-1].outcome()
        dropped = queue.drop(task_id, kind)
        yield [dropped]
        dropped.outcome()
    return bool(where != "unknown" or notification.outcome() == cancellation.REQUESTED)


def retried(updates: Updates, task_id: str) -> Operation[bool]:
    """Put a task that has failed or was cancelled back into its queue. False if it has not, or nothing was kept of it."""
    task_channel(task_id)
    kind, status, token = queue.kept_kind(task_id), status_call(task_id), uuid4().hex
    yield [kind, status]
    if kind.outcome() is None or status.outcome() not in (FAILED, CANCELLED):
        return False
    again = queue.run_again(task_id, kind.outcome(), token)
    yield [again]
    outcome, info = again.outcome()
    if outcome != retries.QUEUED:
        return False
    # If we die before this, the worker that takes it publishes the same.
    published = updates.task_update(task_id, info, key=retries.update_key(task_id, token))
    yield published
    published[-1].outcome()
    return True


def _cancel_request(task_id: str) -> Call:
    script, names, values = cancellation.cancel_call(task_id, "")
    return Call(f"task:{task_id}", names, script, values, read=cancellation.read_outcome)


def requested_call(task_id: str) -> Call:
    """Ask whether a task's cancellation was requested, by a manager or over HTTP. Outcome: a bool."""
    key = keys.meta(TASK_PREFIX + task_id)
    return Call(f"task:{task_id}", [key], command=("HEXISTS", key, cancellation.FIELD), read=bool)


def cancellation_key(task_id: str, token: str) -> str:
    """Return the idempotency key of a waiting run's cancellation: by its canceller, or by a worker that finds it."""
    return f"cancelled:{task_id}:{token}"


def ending(status: str, **fields: Any) -> dict[str, Any]:
    """Return the fields of a task's last update."""
    return {"status": status, **fields, "completed_at": utc_now_iso()}


def fetched(task_id: str, active: float | None = None) -> Operation[TaskState | None]:
    """Fetch the state of a task."""
    call = _state(task_id)
    yield [call]
    return _task(task_id, call, active)


def _state(task_id: str) -> Call:
    key = keys.state(task_channel(task_id))
    return Call(f"task:{task_id}", [key], command=("HGETALL", key), read=decode_fields)


def status_call(task_id: str) -> Call:
    """Ask for a task's status. Outcome: None where there is no such task."""
    key = keys.state(task_channel(task_id))

    def read(answer: Any) -> str | None:
        if answer is None:
            return None
        try:
            return str(json.loads(answer))
        except ValueError:
            return ""  # another program wrote it

    return Call(f"task:{task_id}", [key], command=("HGET", key, "status"), read=read)


def _task(task_id: str, call: Call, active: float | None) -> TaskState | None:
    fields = call.outcome()
    return TaskState(task_id, fields, active) if fields else None


def listed(limit: int, statuses: Collection[str] | None, kind: str | None) -> Operation[list[TaskState]]:
    """List the tasks that were active last."""
    if not 0 < limit <= 1000:
        raise ValueError(f"limit is between 1 and 1000, not {limit}")
    wanted = None if statuses is None else {statuses} if isinstance(statuses, str) else set(statuses)
    each = limit if wanted is None and kind is None else _MAX_SCAN_BUCKET
    indexes = [_index(bucket, each) for bucket in range(keys.BUCKETS)]
    yield indexes
    newest = sorted((entry for call in indexes for entry in call.outcome()), reverse=True)[:_MAX_SCAN]
    found: list[TaskState] = []
    for first in range(0, len(newest), _PAGE):
        some = newest[first : first + _PAGE]
        calls = [_state(task_id) for _, task_id in some]
        yield calls
        for (active, task_id), call in zip(some, calls, strict=True):
            task = _task(task_id, call, active / 1000)
            if task is None or (wanted is not None and task.status not in wanted):
                continue
            if kind is None or task.fields.get("kind") == kind:
                found.append(task)
            if len(found) == limit:
                return found
    return found


def _index(bucket: int, limit: int) -> Call:
    key = keys.tasks(bucket)

    def read(answer: Any) -> list[tuple[float, str]]:
        flat = not answer or isinstance(answer[0], bytes | str)
        pairs = zip(*[iter(answer)] * 2, strict=True) if flat else answer
        return [(float(score), to_text(task_id)) for task_id, score in pairs]

    return Call("tasks", [key], command=("ZREVRANGE", key, 0, limit - 1, "WITHSCORES"), read=read)


def ended(task_id: str, timeout: float) -> Operation[TaskState]:
    """Wait for the end of a task. Raises TimeoutError after `timeout` seconds, LookupError when there is no such task."""
    deadline = monotonic() + timeout
    pause = _MIN_POLL
    while True:
        state = yield from fetched(task_id)
        if state is None:
            raise LookupError(f"there is no task {task_id!r}, or it was removed")
        if state.has_ended:
            return state
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError(f"task {task_id!r} has not ended within {timeout:g} s: it is {state.status}")
        yield min(pause, left)
        pause = min(_MAX_POLL, pause * 1.5)
