"""The list of tasks, page by page: all of them, those of an owner, or the children of a task.

The indexes of tasks are kept bucket by bucket, see `relay_wire.keys`; here they are one list.
"""

from collections.abc import Sequence
from heapq import merge
from itertools import takewhile
from typing import Any, NamedTuple

import structlog
from relay_wire import keys, scripts
from relay_wire.channels import TASK_PREFIX
from relay_wire.creation import owner_of
from relay_wire.publications import ScriptCall
from relay_wire.scripts import Script

from relay.broker import script_calls
from relay.broker.contract import RunCalls
from relay.core.errors import BrokerError, BrokerRefused
from relay.core.task_filter import EVERY_TASK, FILTER_FIELDS, TaskFilter
from relay.core.updates import Position

_log = structlog.get_logger("relay.tasks")

#: Tasks looked at for one page: a filter that matches little must not read everything at once.
_SCAN = 1000

#: States read in one round trip at first, and bytes of states on one page, give or take one round trip.
_STATES_AT_ONCE = 16
_PAGE_BYTES = 2 * 1024 * 1024

#: Longest field that a filter looks at, in bytes: it looks at some 1,000 tasks, and a field may be as large as a state.
_MAX_FILTERED = 8192

_FILTERED = Script.of(
    "local meta, found = redis.call('HMGET', KEYS[1], 'owner', 'parent'), {} "
    "for i, name in ipairs(ARGV) do "
    f"found[i] = redis.call('HSTRLEN', KEYS[2], name) <= {_MAX_FILTERED} and redis.call('HGET', KEYS[2], name) end "
    "return { redis.call('EXISTS', KEYS[2]), meta[1], meta[2], unpack(found, 1, #ARGV) }"
)
#: All ages are by Redis' clock. Scores that are infinite are none of Relay's.
_NOW = "local clock = redis.call('TIME') local now = clock[1] * 1000 + math.floor(clock[2] / 1000) "
_LATEST = Script.of(
    _NOW + "local oldest = ARGV[2] == '' and '(-inf' or now - ARGV[2] "
    "return redis.call('ZREVRANGEBYSCORE', KEYS[1], ARGV[1], oldest, 'WITHSCORES', 'LIMIT', 0, ARGV[3])"
)

_BUCKETS = range(keys.BUCKETS)

#: A task's place in the list: its last activity in milliseconds of the Unix epoch, and its id.
IndexEntry = tuple[float, str]


class Task(NamedTuple):
    """A task's state.

    Attributes:
        task_id: Its id.
        fields: Its fields, as JSON text.
        position: The position that this is the state of.
        active: Its last activity, in seconds of the Unix epoch; None where that was not asked for.
        owner: The users and groups that own it; empty for nobody.
        parent_id: Its parent's id, if it has one.
        cancel_reason: Why its end was requested, which may be empty; None where it was not.
    """

    task_id: str
    fields: dict[str, bytes]
    position: Position
    active: float | None = None
    owner: frozenset[str] = frozenset()
    parent_id: str | None = None
    cancel_reason: str | None = None


class Page(NamedTuple):
    """Some tasks.

    Attributes:
        tasks: The tasks, the most recently active first.
        next: Where the next page begins; None at the end. A page may be short, or empty, and still have a next one.
    """

    tasks: Sequence[Task]
    next: IndexEntry | None


class TaskList:
    """Pages of tasks for clients.

    Args:
        run_calls: Runs scripts for clients.
    """

    def __init__(self, run_calls: RunCalls) -> None:
        self._run_calls = run_calls
        self._unreadable: dict[str, None] = {}

    async def page(self, limit: int, after: IndexEntry | None, wanted: TaskFilter = EVERY_TASK) -> Page:
        """Return tasks, the most recently active first.

        The work is bounded: a page looks at some 1,000 tasks, in a few round trips, and has some 2 MiB.

        Args:
            limit: Most tasks.
            after: The `next` of an earlier page with the same filter.
            wanted: Which tasks. Those of an owner, and the children of a task, have indexes of their own; everything else is
                looked for among them, or among all.

        Raises:
            BrokerUnavailable: Redis does not answer within the deadline. BrokerBusy: too many clients are served.
            BrokerRefused: An index cannot be read.
        """
        oldest = "" if wanted.max_age is None else f"{wanted.max_age * 1000:.0f}"
        indexes = _indexes(wanted)
        found: list[Task] = []
        scanned = size = 0
        at_once = 4 + limit // 16
        while scanned < _SCAN:
            entries, is_all = await self._latest(indexes, after, oldest, at_once)
            scanned += len(entries)
            matching = await self._matching(entries, wanted)
            while matching:
                average = size // len(found) if found else _PAGE_BYTES // _STATES_AT_ONCE
                count = min(max(1, (_PAGE_BYTES - size) // max(1, average)), limit - len(found))
                some, matching = matching[:count], matching[count:]
                for task in await self._states(some):
                    found.append(task)
                    size += sum(map(len, task.fields.values()))
                if len(found) >= limit or size >= _PAGE_BYTES:
                    return Page(found, some[-1])
            if is_all:
                return Page(found, None)
            if entries:
                after = entries[-1]
            else:
                at_once *= 2  # so many were active in one millisecond
        return Page(found, after)

    async def _latest(
        self, indexes: Sequence[str], after: IndexEntry | None, oldest: str, at_once: int
    ) -> tuple[list[IndexEntry], bool]:
        """Return the next entries of some indexes, the latest first, and whether these are all."""
        newest = "(+inf" if after is None else f"{after[0]:.0f}"
        calls = [ScriptCall(_LATEST, [index], [newest, oldest, at_once]) for index in indexes]
        lists = [_entries(answer) for answer in await run_all(self._run_calls, calls)]
        # Beyond the last of a full list there may be more of that index, and these would come first.
        horizon = max((entries[-1] for entries in lists if len(entries) == at_once), default=None)
        # A task with several owners is in several lists, with the same last activity.
        merged = list(dict.fromkeys(entry for entry in merge(*lists, reverse=True) if after is None or entry < after))
        if horizon is None:
            return merged, True
        return list(takewhile(lambda entry: entry >= horizon, merged)), False

    async def _matching(self, entries: list[IndexEntry], wanted: TaskFilter) -> list[IndexEntry]:
        if not wanted.needs_fields or not entries:
            return entries
        calls = [
            ScriptCall(_FILTERED, [keys.meta(channel), keys.state(channel)], [*FILTER_FIELDS])
            for channel in (TASK_PREFIX + task_id for _, task_id in entries)
        ]
        matching = []
        for entry, answer in zip(entries, await self._run_calls(calls), strict=True):
            is_wanted = _is_wanted(entry[1], answer, wanted)
            if isinstance(is_wanted, BrokerRefused):
                self._log_unreadable(entry[1], is_wanted)
            elif isinstance(is_wanted, BrokerError):
                raise is_wanted
            elif is_wanted:
                matching.append(entry)
        return matching

    async def _states(self, entries: Sequence[IndexEntry]) -> list[Task]:
        answers = await self._run_calls([state_call(task_id) for _, task_id in entries])
        tasks: list[Task] = []
        for (active, task_id), answer in zip(entries, answers, strict=True):
            task = read_task(task_id, active / 1000, answer)
            if isinstance(task, BrokerRefused):
                self._log_unreadable(task_id, task)
            elif isinstance(task, BrokerError):
                raise task
            elif task is not None:
                tasks.append(task)
        return tasks

    def _log_unreadable(self, task_id: str, error: BrokerRefused) -> None:
        """Log a task that is left out of lists, once."""
        if task_id not in self._unreadable:
            if len(self._unreadable) >= _SCAN:
                self._unreadable.clear()
            self._unreadable[task_id] = None
            _log.error("task cannot be read, left out of the list", task=task_id, error=str(error))


async def run_all(run_calls: RunCalls, calls: Sequence[ScriptCall]) -> list[Any]:
    """Return the answers. Raises the first error among them."""
    answers = await run_calls(calls)
    for answer in answers:
        if isinstance(answer, BrokerError):
            raise answer
    return answers


def state_call(task_id: str) -> ScriptCall:
    """Return a call that reads one task; `read_task` reads the answer."""
    channel = TASK_PREFIX + task_id
    return ScriptCall(scripts.load("read_task"), [keys.meta(channel), keys.log(channel), keys.state(channel)], [])


def read_task(task_id: str, active: float | None, answer: Any) -> Task | BrokerError | None:
    """Return the task that an answer describes, None if there is no such task, or why it cannot be read."""
    if isinstance(answer, BrokerError):
        return answer
    try:
        epoch, top, state, owner, parent, cancel = answer
        fields = script_calls.readable_fields(state)
        if not fields or epoch is None or top is None:
            return None
        position = Position(epoch.decode(), int(top))
        return Task(task_id, fields, position, active, owner_of(owner), _text(parent), _text(cancel))
    except (ValueError, TypeError, AttributeError) as error:
        return BrokerRefused(f"the task's keys hold what cannot be read: {error}")


def _entries(answer: Any) -> list[IndexEntry]:
    """Return the members and scores of an index; an id with unreadable bytes becomes one that no task has."""
    try:
        flat = zip(answer[::2], answer[1::2], strict=True)
        return [(float(score), member.decode(errors="replace")) for member, score in flat]
    except (ValueError, TypeError, AttributeError) as error:
        raise BrokerRefused(f"the index of tasks cannot be read: {error}") from error


def _indexes(wanted: TaskFilter) -> list[str]:
    """Return the shortest indexes that have all tasks that are wanted."""
    if wanted.parent_id is not None:
        return [keys.tasks_of_parent(bucket, wanted.parent_id) for bucket in _BUCKETS]
    if wanted.owners is not None:
        return [keys.tasks_of_owner(bucket, owner) for owner in sorted(wanted.owners) for bucket in _BUCKETS]
    return [keys.tasks(bucket) for bucket in _BUCKETS]


def _is_wanted(task_id: str, answer: Any, wanted: TaskFilter) -> bool | BrokerError:
    if isinstance(answer, BrokerError):
        return answer
    try:
        exists, owner, parent, *values = answer
        fields = {name: value for name, value in zip(FILTER_FIELDS, values, strict=True) if value is not None}
        return exists == 1 and wanted.matches(task_id, fields, owner_of(owner), _text(parent))
    except (ValueError, TypeError, AttributeError) as error:
        return BrokerRefused(f"the task's keys hold what cannot be read: {error}")


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()
