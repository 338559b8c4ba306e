"""The steps of a task through the queue as calls of Redis, and their answers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from relay_client.publishing.call import Call
from relay_wire import retries
from relay_wire.publications import to_text
from relay_wire.retries import PREFIX, kept_key, queue_key, task_key
from relay_wire.scripts import Script

from relay_jobs import scripts

GROUP = "workers"

#: A task that is being created is handed to workers after so many milliseconds, even if its creator has died.
CREATION_MS = 30_000

#: A worker that was silent for so many milliseconds, and that holds nothing, is removed.
CONSUMER_MS = 3_600_000


class Entry(NamedTuple):
    """A task's place in the stream of its kind. task_id is None for an entry that is no task."""

    kind: str
    entry_id: str
    task_id: str | None


class Claim(NamedTuple):
    """A claimed entry: its job, and which attempt this is, counted from 1.

    action: ``run`` it; end it as ``cancelled``; nothing, for another worker has it (``gone``); or fail it, for Redis has no job
    (``missing``).
    token: The unique name of the request that has created this run of the task.
    is_again: The task had ended before, and its new run was not announced yet.
    """

    action: str
    job: bytes
    attempt: int
    token: str
    is_again: bool


def delayed_key(kind: str) -> str:
    """Return the key of a sorted set: the tasks that are not due yet."""
    return f"{PREFIX}delayed:{kind}"


def _call(name: str, keys: Sequence[str], script: Script, *values: Any, read: Any = int) -> Call:
    return Call(f"jobs:{name}", keys, script, values, read=read)


def _of(kind: str, task_id: str) -> list[str]:
    return [queue_key(kind), delayed_key(kind), task_key(task_id)]


def _held(entry: Entry) -> list[str]:
    return [queue_key(entry.kind), task_key(entry.task_id or "")]


def reserve(task_id: str, kind: str, job: bytes, token: str, bound: int) -> Call:
    """Take a task in, where no worker sees it yet. Outcome: 1; 0 if there is one of this id; -1 if the backlog is full."""
    return _call(task_id, _of(kind, task_id), scripts.RESERVE, task_id, job, token, bound, CREATION_MS)


def ready(task_id: str, kind: str, *, if_due: bool = False) -> Call:
    """Hand a task to the workers; if_due: unless its time has not come."""
    return _call(task_id, _of(kind, task_id), scripts.READY, task_id, "due" if if_due else "now")


def due(kind: str, limit: int) -> Call:
    """Ask for the ids of tasks whose time has come."""
    return _call(kind, [delayed_key(kind)], scripts.DUE, limit, read=lambda answer: [to_text(name) for name in answer])


def open_queues(kinds: Iterable[str]) -> Call:
    """Create the streams that a worker reads."""
    return _call("queues", [queue_key(kind) for kind in kinds], scripts.OPEN, GROUP)


def take(kinds: Sequence[str], consumer: str, limit: int) -> Call:
    """Take new entries, those of the first kinds first."""

    def read(answer: Any) -> list[Entry]:
        return [entry for place, raw in answer for entry in entries(kinds[int(place) - 1], raw)]

    return _call("queues", [queue_key(kind) for kind in kinds], scripts.TAKE, GROUP, consumer, limit, read=read)


def take_over(kind: str, consumer: str, idle_ms: int, start: str, limit: int) -> Call:
    """Claim entries that another worker has left. Outcome: the cursor to continue with, and the entries."""

    def read(answer: Any) -> tuple[str, list[Entry]]:
        return to_text(answer[0]), entries(kind, answer[1])

    command = ("XAUTOCLAIM", queue_key(kind), GROUP, consumer, idle_ms, start, "COUNT", limit)
    return Call(f"jobs:{kind}", [queue_key(kind)], command=command, read=read)


def claim(entry: Entry, consumer: str, owner: str) -> Call:
    """Begin an attempt; owner: its unique name. The outcome is a `Claim`."""

    def read(answer: Any) -> Claim:
        action, job, attempt, token, is_again = answer
        body = job.encode() if isinstance(job, str) else job
        return Claim(to_text(action), body, int(attempt), to_text(token), bool(is_again))

    return _call(entry.task_id or "", _held(entry), scripts.CLAIM, GROUP, consumer, entry.entry_id, owner, read=read)


def keep(entry: Entry, consumer: str, owner: str) -> Call:
    """Renew the claim. Outcome: ``kept``, ``cancelled``, ``lost`` or ``missing``, as in `scripts.KEEP`."""
    return _call(entry.task_id or "", _held(entry), scripts.KEEP, GROUP, consumer, entry.entry_id, owner, read=to_text)


def finish(entry: Entry, owner: str = "", *, keep_seconds: int = 0) -> Call:
    """Remove a task that has ended from the queue. Outcome: 0 if another attempt has it.

    keep_seconds: for so long its job is kept, so that it can be run again.
    """
    names = [*_held(entry), kept_key(entry.task_id or "")]
    values = (GROUP, entry.entry_id, owner, keep_seconds, entry.kind)
    return _call(entry.task_id or "", names, scripts.FINISH, *values)


def announced_again(entry: Entry, token: str) -> Call:
    """Note that a task's new run was announced: if it ends, it has ended."""
    return _call(entry.task_id or "", [task_key(entry.task_id or "")], scripts.ANNOUNCED, token)


def kept_kind(task_id: str) -> Call:
    """Ask for the kind of a task that can be run again. Outcome: None if nothing was kept of it."""
    script, names, values = retries.kind_call(task_id)
    return _call(task_id, names, script, *values, read=lambda answer: None if answer is None else to_text(answer))


def run_again(task_id: str, kind: str, token: str) -> Call:
    """Put an ended task back into its queue. Outcome: as `relay_wire.retries.read_retry`."""
    script, names, values = retries.retry_call(task_id, kind, token)
    return _call(task_id, names, script, *values, read=retries.read_retry)


def retry(entry: Entry, owner: str, seconds: float) -> Call:
    """Have a task tried again in so many seconds. Outcome: 0 if another attempt has it."""
    assert entry.task_id is not None
    names = _of(entry.kind, entry.task_id)
    wait = int(seconds * 1000)
    return _call(entry.task_id, names, scripts.RETRY, GROUP, entry.entry_id, owner, entry.task_id, wait)


def release(entry: Entry, consumer: str, owner: str = "") -> Call:
    """Leave a task to the next worker that looks. Outcome: 0 if another has it already."""
    return _call(entry.task_id or "", _held(entry), scripts.RELEASE, GROUP, consumer, entry.entry_id, owner)


def cancel(task_id: str) -> Call:
    """Request a task's cancellation. Outcome: ``unknown``, ``waiting`` or ``running``, the job, and the run's token."""

    def read(answer: Any) -> tuple[str, bytes, str]:
        where, job, token = answer
        return to_text(where), job.encode() if isinstance(job, str) else job, to_text(token)

    return _call(task_id, [task_key(task_id)], scripts.CANCEL, read=read)


def drop(task_id: str, kind: str) -> Call:
    """Remove a cancelled task, unless a worker has it."""
    return _call(task_id, _of(kind, task_id), scripts.DROP, GROUP, task_id)


def forget(kind: str, consumer: str = "") -> Call:
    """Remove a worker that holds nothing; without a name, all that have been silent for long."""
    return _call(kind, [queue_key(kind)], scripts.FORGET, GROUP, consumer, CONSUMER_MS)


def kind_of(queue: bytes | str) -> str:
    """Return the kind of a queue's key."""
    return to_text(queue).removeprefix(f"{PREFIX}queue:")


def entries(kind: str, raw: Iterable[Any]) -> list[Entry]:
    """Return a stream's entries, in any of the forms that Redis and redis-py give them; deleted ones are left out."""
    found = []
    for item in raw:
        if not item or item[1] is None:
            continue
        fields = item[1]
        pairs = fields.items() if isinstance(fields, Mapping) else zip(*[iter(fields)] * 2, strict=False)
        named = {_text(name): _text(value) for name, value in pairs}
        found.append(Entry(kind, to_text(item[0]), named.get("task_id") or None))
    return found


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
