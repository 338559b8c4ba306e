"""The list of tasks, page by page: all of them, those of an owner, or the children of a task.

`relay.broker.task_indexes` says which tasks have to be looked at.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import structlog
from relay_wire import keys, scripts
from relay_wire.channels import TASK_PREFIX
from relay_wire.creation import owner_of
from relay_wire.publications import ScriptCall
from relay_wire.scripts import Script

from relay.broker import script_calls
from relay.broker.contract import RunCalls
from relay.broker.task_indexes import IndexEntry, TaskIndexes
from relay.core.errors import BrokerError, BrokerRefused
from relay.core.task_filter import EVERY_TASK, TaskFilter
from relay.core.updates import Position

_log = structlog.get_logger("relay.tasks")

#: Tasks looked at for one page: a filter that matches little must not read everything at once.
_SCAN = 1000

#: Times that the indexes are read for one page.
_MAX_ROUNDS = 16

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
        run: The how-manieth run of this id it is, from 1.
    """

    task_id: str
    fields: dict[str, bytes]
    position: Position
    active: float | None = None
    owner: frozenset[str] = frozenset()
    parent_id: str | None = None
    cancel_reason: str | None = None
    run: int = 1


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
        indexes = TaskIndexes(self._run_calls, wanted)
        found: list[Task] = []
        scanned = size = rounds = 0
        at_once = 4 + limit // 16
        while scanned < _SCAN and rounds < _MAX_ROUNDS:
            entries, horizon = await indexes.latest(after, at_once)
            scanned += len(entries)
            rounds += 1
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
            if horizon is None:
                return Page(found, None)
            if after is None or horizon < after:
                after = horizon
            else:
                at_once *= 2  # so many were active in one millisecond
        return Page(found, after)

    async def _matching(self, entries: list[IndexEntry], wanted: TaskFilter) -> list[IndexEntry]:
        entries = [entry for entry in entries if wanted.may_match(entry[1])]
        if not wanted.needs_fields or not entries:
            return entries
        calls = [
            ScriptCall(_FILTERED, [keys.meta(channel), keys.state(channel)], [*wanted.field_names])
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
        epoch, top, state, owner, parent, cancel, run = answer
        fields = script_calls.readable_fields(state)
        if not fields or epoch is None or top is None:
            return None
        position = Position(epoch.decode(), int(top))
        count = 1 if run is None else int(run)
        return Task(task_id, fields, position, active, owner_of(owner), _text(parent), _text(cancel), count)
    except (ValueError, TypeError, AttributeError) as error:
        return BrokerRefused(f"the task's keys hold what cannot be read: {error}")


def _is_wanted(task_id: str, answer: Any, wanted: TaskFilter) -> bool | BrokerError:
    if isinstance(answer, BrokerError):
        return answer
    try:
        exists, owner, parent, *values = answer
        fields = {name: value for name, value in zip(wanted.field_names, values, strict=True) if value is not None}
        return exists == 1 and wanted.matches(task_id, fields, owner_of(owner), _text(parent))
    except (ValueError, TypeError, AttributeError) as error:
        return BrokerRefused(f"the task's keys hold what cannot be read: {error}")


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()
