"""What a manager does, step by step, without I/O: each plan yields calls, to be carried out before it goes on, or seconds to
wait. The shells in `manager` and `aio_manager` carry them out, in threads and in asyncio."""

import json
from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeVar
from uuid import uuid4

from relay_client.encoding import decode_fields
from relay_client.progress.task import utc_now_iso
from relay_client.publishing.call import Call
from relay_client.updates import Updates, task_channel
from relay_wire import keys
from relay_wire.publications import to_text
from relay_wire.statuses import CANCELLED, TERMINAL

from relay_jobs import queue
from relay_jobs.errors import BacklogFull, TaskExists
from relay_jobs.job import BadJob, checked_kind, decoded, new_job

T = TypeVar("T")
Operation = Generator[list[Call] | float, None, T]

#: How often the end of a task is looked for, in seconds: at first, and at most.
_FIRST_LOOK, _LAST_LOOK = 0.05, 1.0

#: Most tasks that one `listed` looks at; of each bucket, and for one round trip.
_SCAN, _SCAN_BUCKET, _AT_ONCE = 5000, 1000, 100


@dataclass(frozen=True, slots=True)
class TaskState:
    """What is known of a task.

    fields: as its watchers see them
    active: its last activity in seconds of the Unix epoch; None where that was not asked for
    """

    task_id: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    active: float | None = None

    @property
    def status(self) -> str | None:
        """``pending``, ``in_progress``, ``completed``, ``failed``, ``cancelled``, or what somebody else published."""
        status = self.fields.get("status")
        return status if isinstance(status, str) else None

    @property
    def has_ended(self) -> bool:
        """It is completed, failed or cancelled."""
        return self.status in TERMINAL


def announcement_key(task_id: str, token: str) -> str:
    """By this the announcement of a task is made once, by its creator or by a worker that finds none."""
    return f"created:{task_id}:{token}"


def created(
    updates: Updates,
    bound: int,
    kind: str,
    params: Mapping[str, Any],
    title: str | None,
    task_id: str | None,
    fields: Mapping[str, Any],
) -> Operation[str]:
    """A new task: taken in, announced, and only then seen by workers. Whoever dies over it leaves it to a worker."""
    if task_id is not None:
        task_channel(task_id)
        if (yield from fetched(task_id)) is not None:
            raise TaskExists(f"there is a task {task_id!r} already: choose another id, or leave it out")
    name = task_id or uuid4().hex
    job = new_job(name, checked_kind(kind), params, title, fields)
    body = job.encoded()
    if len(body) > updates.max_bytes:
        raise ValueError(f"a task has {updates.max_bytes} bytes at most (RELAY_MAX_UPDATE_BYTES), not {len(body)}")
    announcement = updates.created(name, job.info, key=announcement_key(name, job.info["created_at"]))
    taken = queue.reserve(name, kind, body, uuid4().hex, bound)
    yield [taken]
    if taken.outcome() < 0:
        raise BacklogFull(f"{bound} tasks of kind {kind!r} wait or run already: try later, or start more workers")
    if not taken.outcome():
        raise TaskExists(f"there is a task {name!r} already: choose another id, or leave it out")
    handed = queue.ready(name, kind)
    yield [*announcement, handed]
    for call in (*announcement, handed):
        call.outcome()
    return name


def cancelled(updates: Updates, task_id: str) -> Operation[bool]:
    """Ask that a task be cancelled; one that waits is, at once. False if it has ended or is unknown."""
    task_channel(task_id)
    asked = queue.cancel(task_id)
    yield [asked]
    where, body = asked.outcome()
    if where == "waiting":
        try:
            kind = decoded(task_id, body).kind
        except BadJob:
            return True  # the worker that finds it ends it
        # Said first, then dropped: if we die in between, a worker finds it marked, and does both.
        told = updates.task_update(task_id, ending(CANCELLED), key=cancellation_key(task_id))
        yield told
        told[-1].outcome()
        dropped = queue.drop(task_id, kind)
        yield [dropped]
        dropped.outcome()
    return bool(where != "unknown")


def cancellation_key(task_id: str) -> str:
    """By this a waiting task is told to be cancelled once, by whoever asked for it or by the worker that found it so."""
    return f"cancelled:{task_id}"


def ending(status: str, **fields: Any) -> dict[str, Any]:
    """The fields of a task's last update."""
    return {"status": status, **fields, "completed_at": utc_now_iso()}


def fetched(task_id: str, active: float | None = None) -> Operation[TaskState | None]:
    """One task's state."""
    call = _state(task_id)
    yield [call]
    return _task(task_id, call, active)


def _state(task_id: str) -> Call:
    key = keys.state(task_channel(task_id))
    return Call(f"task:{task_id}", [key], command=("HGETALL", key), read=decode_fields)


def status_call(task_id: str) -> Call:
    """A task's status, None where there is no such task."""
    key = keys.state(task_channel(task_id))

    def read(answer: Any) -> str | None:
        if answer is None:
            return None
        try:
            return str(json.loads(answer))
        except ValueError:
            return ""  # somebody else wrote it

    return Call(f"task:{task_id}", [key], command=("HGET", key, "status"), read=read)


def _task(task_id: str, call: Call, active: float | None) -> TaskState | None:
    fields = call.outcome()
    return TaskState(task_id, fields, active) if fields else None


def listed(limit: int, statuses: Collection[str] | None, kind: str | None) -> Operation[list[TaskState]]:
    """The tasks that were active last."""
    if not 0 < limit <= 1000:
        raise ValueError(f"limit is between 1 and 1000, not {limit}")
    wanted = None if statuses is None else {statuses} if isinstance(statuses, str) else set(statuses)
    each = limit if wanted is None and kind is None else _SCAN_BUCKET
    indexes = [_index(bucket, each) for bucket in range(keys.BUCKETS)]
    yield indexes
    newest = sorted((entry for call in indexes for entry in call.outcome()), reverse=True)[:_SCAN]
    found: list[TaskState] = []
    for first in range(0, len(newest), _AT_ONCE):
        some = newest[first : first + _AT_ONCE]
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


def _index(bucket: int, most: int) -> Call:
    key = keys.tasks(bucket)

    def read(answer: Any) -> list[tuple[float, str]]:
        flat = not answer or isinstance(answer[0], bytes | str)
        pairs = zip(*[iter(answer)] * 2, strict=True) if flat else answer
        return [(float(score), to_text(task_id)) for task_id, score in pairs]

    return Call("tasks", [key], command=("ZREVRANGE", key, 0, most - 1, "WITHSCORES"), read=read)


def ended(task_id: str, timeout: float) -> Operation[TaskState]:
    """Wait for the end of a task. Raises TimeoutError, and LookupError when there is no such task."""
    deadline = monotonic() + timeout
    pause = _FIRST_LOOK
    while True:
        state = yield from fetched(task_id)
        if state is None:
            raise LookupError(f"there is no task {task_id!r}, or no more")
        if state.has_ended:
            return state
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError(f"task {task_id!r} has not ended within {timeout:g} s: it is {state.status}")
        yield min(pause, left)
        pause = min(_LAST_LOOK, pause * 1.5)
