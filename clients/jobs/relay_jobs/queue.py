"""The queue's steps as calls of Redis, and their answers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from relay_client.publishing.call import Call
from relay_wire.publications import to_text
from relay_wire.scripts import Script

from relay_jobs import scripts

GROUP = "workers"

_PREFIX = "relay:{jobs}:"

#: A task that is being created is handed to workers after so long, even if its creator has died over it.
CREATION_MS = 30_000

#: A worker that nobody has heard of for so long, and that holds nothing, is forgotten.
CONSUMER_MS = 3_600_000


class Entry(NamedTuple):
    """A task's place in its kind's stream. task_id is None for what is no task."""

    kind: str
    entry_id: str
    task_id: str | None


class Claim(NamedTuple):
    """What to do with an entry: ``run`` it, end it as ``cancelled``, or nothing since it is ``gone`` or ``missing``."""

    outcome: str
    job: bytes
    attempt: int


def queue_key(kind: str) -> str:
    """Stream of what waits and what runs."""
    return f"{_PREFIX}queue:{kind}"


def delayed_key(kind: str) -> str:
    """Sorted set of what is not due yet."""
    return f"{_PREFIX}delayed:{kind}"


def task_key(task_id: str) -> str:
    """Hash of all about one task."""
    return f"{_PREFIX}task:{task_id}"


def _call(name: str, keys: Sequence[str], script: Script, *values: Any, read: Any = int) -> Call:
    return Call(f"jobs:{name}", keys, script, values, read=read)


def _of(kind: str, task_id: str) -> list[str]:
    return [queue_key(kind), delayed_key(kind), task_key(task_id)]


def _held(entry: Entry) -> list[str]:
    return [queue_key(entry.kind), task_key(entry.task_id or "")]


def reserve(task_id: str, kind: str, job: bytes, token: str, bound: int) -> Call:
    """Take a task in, for the time being where no worker sees it. 1; 0 if there is one; -1 if the backlog is full."""
    return _call(task_id, _of(kind, task_id), scripts.RESERVE, task_id, job, token, bound, CREATION_MS)


def ready(task_id: str, kind: str, *, if_due: bool = False) -> Call:
    """Hand it to the workers."""
    return _call(task_id, _of(kind, task_id), scripts.READY, task_id, "due" if if_due else "now")


def due(kind: str, most: int) -> Call:
    """The ids of tasks whose time has come."""
    return _call(kind, [delayed_key(kind)], scripts.DUE, most, read=lambda answer: [to_text(name) for name in answer])


def open_queues(kinds: Iterable[str]) -> Call:
    """Make what a worker reads from."""
    return _call("queues", [queue_key(kind) for kind in kinds], scripts.OPEN, GROUP)


def take(kinds: Sequence[str], consumer: str, most: int) -> Call:
    """Take new ones, of the first kinds first."""

    def read(answer: Any) -> list[Entry]:
        return [entry for place, raw in answer for entry in entries(kinds[int(place) - 1], raw)]

    return _call("queues", [queue_key(kind) for kind in kinds], scripts.TAKE, GROUP, consumer, most, read=read)


def take_over(kind: str, consumer: str, idle_ms: int, start: str, most: int) -> Call:
    """Claim what another has left: where to go on, and entries."""

    def read(answer: Any) -> tuple[str, list[Entry]]:
        return to_text(answer[0]), entries(kind, answer[1])

    command = ("XAUTOCLAIM", queue_key(kind), GROUP, consumer, idle_ms, start, "COUNT", most)
    return Call(f"jobs:{kind}", [queue_key(kind)], command=command, read=read)


def begin(entry: Entry, consumer: str, owner: str) -> Call:
    """Begin an attempt; owner is its name, which no other has."""

    def read(answer: Any) -> Claim:
        outcome, job, attempt = answer
        return Claim(to_text(outcome), job.encode() if isinstance(job, str) else job, int(attempt))

    return _call(entry.task_id or "", _held(entry), scripts.BEGIN, GROUP, consumer, entry.entry_id, owner, read=read)


def keep(entry: Entry, consumer: str, owner: str) -> Call:
    """Keep the claim: ``kept``, ``cancelled``, ``lost`` or ``missing``."""
    return _call(entry.task_id or "", _held(entry), scripts.KEEP, GROUP, consumer, entry.entry_id, owner, read=to_text)


def finish(entry: Entry, owner: str = "") -> Call:
    """It has ended, and is no more in the queue. 0 if another attempt has it."""
    return _call(entry.task_id or "", _held(entry), scripts.FINISH, GROUP, entry.entry_id, owner)


def retry(entry: Entry, owner: str, seconds: float) -> Call:
    """Try it again later. 0 if another attempt has it."""
    assert entry.task_id is not None
    names = _of(entry.kind, entry.task_id)
    wait = int(seconds * 1000)
    return _call(entry.task_id, names, scripts.RETRY, GROUP, entry.entry_id, owner, entry.task_id, wait)


def release(entry: Entry, consumer: str, owner: str = "") -> Call:
    """Leave it to whoever looks next. 0 if another has it already."""
    return _call(entry.task_id or "", _held(entry), scripts.RELEASE, GROUP, consumer, entry.entry_id, owner)


def cancel(task_id: str) -> Call:
    """Ask that it be cancelled: ``unknown``, ``waiting`` or ``running``, and the job."""

    def read(answer: Any) -> tuple[str, bytes]:
        where, job = answer
        return to_text(where), job.encode() if isinstance(job, str) else job

    return _call(task_id, [task_key(task_id)], scripts.CANCEL, read=read)


def drop(task_id: str, kind: str) -> Call:
    """Take a cancelled one out, unless a worker has it."""
    return _call(task_id, _of(kind, task_id), scripts.DROP, GROUP, task_id)


def forget(kind: str, consumer: str = "") -> Call:
    """Forget a worker that holds nothing, or all that have been silent for long."""
    return _call(kind, [queue_key(kind)], scripts.FORGET, GROUP, consumer, CONSUMER_MS)


def kind_of(queue: bytes | str) -> str:
    """The kind of a queue's key."""
    return to_text(queue).removeprefix(f"{_PREFIX}queue:")


def entries(kind: str, raw: Iterable[Any]) -> list[Entry]:
    """A stream's entries, in the forms that Redis and redis-py give them. Deleted ones are left out."""
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
