"""The tasks in Redis: their states one by one and as a list, their heartbeats, and which are silent.

The indexes of tasks are kept bucket by bucket, see `relay_wire.keys`; here they are one list.
"""

from collections.abc import Sequence
from heapq import merge
from itertools import takewhile
from typing import Any, NamedTuple

import structlog
from relay_wire import keys, publications
from relay_wire.channels import TASK_PREFIX
from relay_wire.creation import owner_of
from relay_wire.publications import Retention, ScriptCall
from relay_wire.scripts import Script

from relay.broker import script_calls
from relay.broker.contract import RunCalls
from relay.core.errors import BrokerError, BrokerRefused
from relay.core.task_state import status_of
from relay.core.updates import Position

_log = structlog.get_logger("relay.tasks")

#: Tasks looked at for one page: a filter that matches little must not read everything at once.
_SCAN = 1000

#: States read in one round trip at first, and bytes of states on one page, give or take one round trip.
_STATES_AT_ONCE = 16
_PAGE_BYTES = 2 * 1024 * 1024

#: Stalled tasks marked in one round, of each bucket.
_MARK_AT_ONCE = 50

#: A relay that holds the lock longer than it lasts must not take it from the next one.
_LOCK = Script.of(
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end "
    "return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0"
)
_STATE = Script.of(
    "local meta = redis.call('HMGET', KEYS[1], 'epoch', 'top', 'owner', 'parent') "
    "return { meta[1], meta[2], redis.call('HGETALL', KEYS[2]), meta[3], meta[4] }"
)
_STATUS = Script.of("return redis.call('HGET', KEYS[1], 'status')")

#: All ages are by Redis' clock. Scores that are infinite are none of Relay's.
_NOW = "local clock = redis.call('TIME') local now = clock[1] * 1000 + math.floor(clock[2] / 1000) "
_LATEST = Script.of(
    _NOW + "local oldest = ARGV[2] == '' and '(-inf' or now - ARGV[2] "
    "return redis.call('ZREVRANGEBYSCORE', KEYS[1], ARGV[1], oldest, 'WITHSCORES', 'LIMIT', 0, ARGV[3])"
)
_SILENT = Script.of(
    _NOW + "return redis.call('ZRANGEBYSCORE', KEYS[1], '(-inf', now - ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[2])"
)
_FORGET = Script.of(
    _NOW + "for _, key in ipairs(KEYS) do "
    "redis.call('ZREMRANGEBYSCORE', key, '-inf', now - ARGV[1]) redis.call('ZREMRANGEBYSCORE', key, '+inf', '+inf') "
    "redis.call('ZREMRANGEBYRANK', key, 0, ARGV[2]) end"
)
_REMOVE = Script.of("return redis.call('ZREM', KEYS[1], ARGV[1])")

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
    """

    task_id: str
    fields: dict[str, bytes]
    position: Position
    active: float | None = None
    owner: frozenset[str] = frozenset()
    parent_id: str | None = None


class Page(NamedTuple):
    """Some tasks.

    Attributes:
        tasks: The tasks, the most recently active first.
        next: Where the next page begins; None at the end. A page may be short, or empty, and still have a next one.
    """

    tasks: Sequence[Task]
    next: IndexEntry | None


class TaskStore:
    """The tasks in Redis.

    All methods raise BrokerUnavailable and BrokerRefused, within the deadline of a call; those that serve clients raise
    BrokerBusy when too many are served.
    """

    def __init__(
        self, run_calls: RunCalls, run_client_calls: RunCalls, retention: Retention, max_tasks: int, *, sharded: bool
    ) -> None:
        """Make the store.

        Args:
            run_calls: Runs scripts for the relay itself.
            run_client_calls: Runs scripts for clients.
            retention: How much is kept, and for how long.
            max_tasks: Tasks listed; of more, the least recently active are left out.
            sharded: Whether the server is a cluster.
        """
        self._run_calls = run_calls
        self._run_client_calls = run_client_calls
        self._retention = retention
        self._max_tasks = max_tasks
        self._sharded = sharded
        self._unreadable: dict[str, None] = {}

    # For clients.

    async def get(self, task_id: str) -> Task | None:
        """Return one task, or None when there is none, or no more."""
        (answer,) = await _all(self._run_client_calls, [_state_call(task_id)])
        task = _task(task_id, None, answer)
        if isinstance(task, BrokerError):
            raise task
        return task

    async def heartbeat(self, task_id: str) -> bool:
        """Note that a task is active. If it was marked as stalled, its watchers see that it is no longer.

        Returns:
            False when there is no such task.
        """
        call = publications.heartbeat_call(task_id, self._retention, sharded=self._sharded)
        (answer,) = await _all(self._run_client_calls, [call])
        result = script_calls.read_result(answer)
        if isinstance(result, BrokerRefused):
            raise result
        return not result.is_duplicate

    async def page(
        self, limit: int, statuses: frozenset[str] | None, max_age: float | None, after: IndexEntry | None
    ) -> Page:
        """Return tasks, the most recently active first.

        The work is bounded: a page looks at some 1,000 tasks, in a few round trips, and has some 2 MiB.

        Args:
            limit: Most tasks.
            statuses: Only tasks with one of these; any without it.
            max_age: Only tasks that were active within so many seconds.
            after: The `next` of an earlier page.
        """
        oldest = "" if max_age is None else f"{max_age * 1000:.0f}"
        found: list[Task] = []
        scanned = size = 0
        at_once = 4 + limit // 16
        while scanned < _SCAN:
            entries, is_all = await self._latest(after, oldest, at_once)
            scanned += len(entries)
            matching = await self._matching(entries, statuses)
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

    async def _latest(self, after: IndexEntry | None, oldest: str, at_once: int) -> tuple[list[IndexEntry], bool]:
        """Return the next entries of all buckets' indexes, the latest first, and whether these are all."""
        newest = "(+inf" if after is None else f"{after[0]:.0f}"
        calls = [ScriptCall(_LATEST, [keys.tasks(bucket)], [newest, oldest, at_once]) for bucket in _BUCKETS]
        lists = [_entries(answer) for answer in await _all(self._run_client_calls, calls)]
        # Beyond the last of a full list there may be more of that bucket, and these would come first.
        horizon = max((entries[-1] for entries in lists if len(entries) == at_once), default=None)
        merged = [entry for entry in merge(*lists, reverse=True) if after is None or entry < after]
        if horizon is None:
            return merged, True
        return list(takewhile(lambda entry: entry >= horizon, merged)), False

    async def _matching(self, entries: list[IndexEntry], statuses: frozenset[str] | None) -> list[IndexEntry]:
        if statuses is None or not entries:
            return entries
        calls = [ScriptCall(_STATUS, [keys.state(TASK_PREFIX + task_id)], []) for _, task_id in entries]
        answers = await self._run_client_calls(calls)
        matching = []
        for entry, answer in zip(entries, answers, strict=True):
            if isinstance(answer, BrokerRefused):
                self._log_unreadable(entry[1], answer)
            elif isinstance(answer, BrokerError):
                raise answer
            elif isinstance(answer, bytes) and status_of({"status": answer}) in statuses:
                matching.append(entry)
        return matching

    async def _states(self, entries: Sequence[IndexEntry]) -> list[Task]:
        answers = await self._run_client_calls([_state_call(task_id) for _, task_id in entries])
        tasks: list[Task] = []
        for (active, task_id), answer in zip(entries, answers, strict=True):
            task = _task(task_id, active / 1000, answer)
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

    # For the relay that supervises tasks.

    async def lock(self, token: str, seconds: float) -> bool:
        """Become, or stay, the one relay that supervises tasks.

        Args:
            token: Names this relay.
            seconds: How long the lock lasts.
        """
        call = ScriptCall(_LOCK, [keys.SUPERVISOR], [token, int(seconds * 1000)])
        (answer,) = await _all(self._run_calls, [call])
        return bool(answer)

    async def mark_stalled(self, silent_for: float) -> int:
        """Mark tasks in progress that have been silent for some seconds. Returns how many were marked.

        A task that is active meanwhile is not marked, even if other relays mark at the same time: each mark holds only if the
        last activity is the one that was seen here.
        """
        silent_ms = int(silent_for * 1000)
        answers = await self._run_calls(
            [ScriptCall(_SILENT, [keys.running(bucket)], [silent_ms, _MARK_AT_ONCE]) for bucket in _BUCKETS]
        )
        calls = []
        for bucket, answer in zip(_BUCKETS, answers, strict=True):
            if not isinstance(answer, list):
                continue  # one node of a cluster is away: the others' tasks are looked after
            for member, score in zip(answer[::2], answer[1::2], strict=False):
                try:
                    call = script_calls.mark_stalled_call(
                        member.decode(), score.decode(), self._retention, sharded=self._sharded
                    )
                except (UnicodeDecodeError, AttributeError):
                    _log.error("index of running tasks holds what is no task id, removed", bucket=bucket)
                    call = ScriptCall(_REMOVE, [keys.running(bucket)], [member])
                calls.append(call)
        if not calls:
            return 0
        results = [
            script_calls.read_result(answer)
            for call, answer in zip(calls, await self._run_calls(calls), strict=True)
            if call.script is not _REMOVE and not isinstance(answer, BrokerError)
        ]
        return sum(not isinstance(result, BrokerRefused) and not result.is_duplicate for result in results)

    async def forget_old(self) -> None:
        """Drop tasks whose state has expired from the indexes, and the least recently active of too many."""
        limit = max(1, self._max_tasks // keys.BUCKETS)
        values = [self._retention.task_state_ttl * 1000, -limit - 1]
        calls = [ScriptCall(_FORGET, [keys.tasks(bucket), keys.running(bucket)], values) for bucket in _BUCKETS]
        await _all(self._run_calls, calls)


async def _all(run_calls: RunCalls, calls: Sequence[ScriptCall]) -> list[Any]:
    """Return the answers. Raises the first error among them."""
    answers = await run_calls(calls)
    for answer in answers:
        if isinstance(answer, BrokerError):
            raise answer
    return answers


def _state_call(task_id: str) -> ScriptCall:
    channel = TASK_PREFIX + task_id
    return ScriptCall(_STATE, [keys.meta(channel), keys.state(channel)], [])


def _task(task_id: str, active: float | None, answer: Any) -> Task | BrokerError | None:
    """Return the task that an answer describes, None if there is no such task, or why it cannot be read."""
    if isinstance(answer, BrokerError):
        return answer
    try:
        epoch, top, state, owner, parent = answer
        fields = script_calls.readable_fields(state)
        if not fields or epoch is None or top is None:
            return None
        position = Position(epoch.decode(), int(top))
        return Task(task_id, fields, position, active, owner_of(owner), None if parent is None else parent.decode())
    except (ValueError, TypeError, AttributeError) as error:
        return BrokerRefused(f"the task's keys hold what cannot be read: {error}")


def _entries(answer: Any) -> list[IndexEntry]:
    """Return the members and scores of an index; an id with unreadable bytes becomes one that no task has."""
    try:
        flat = zip(answer[::2], answer[1::2], strict=True)
        return [(float(score), member.decode(errors="replace")) for member, score in flat]
    except (ValueError, TypeError, AttributeError) as error:
        raise BrokerRefused(f"the index of tasks cannot be read: {error}") from error
