"""The tasks in Redis: their states one by one and as a list, their signs of life, and who is silent.

The lists of tasks are kept bucket by bucket, see `relay_wire.keys`; here they are one.
"""

from collections.abc import Sequence
from heapq import merge
from itertools import takewhile
from time import time
from typing import Any, NamedTuple

from relay_wire import keys, publications
from relay_wire.channels import TASK_PREFIX
from relay_wire.scripts import Script

from relay.broker import store
from relay.broker.feeds import RunScript
from relay.core.errors import BrokerError
from relay.core.taskstate import status_of
from relay.core.updates import Position

#: Tasks looked at for one page: a filter that matches little must not read everything at once.
_SCAN = 1000

#: Stalled tasks marked in one round, of each bucket.
_MARK_AT_ONCE = 50

#: A relay that holds the lock longer than it lasts must not take it from the next one.
_LOCK = Script.of(
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end "
    "return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0"
)
_STATE = Script.of(
    "local numbers = redis.call('HMGET', KEYS[1], 'epoch', 'top') "
    "return { numbers[1], numbers[2], redis.call('HGETALL', KEYS[2]) }"
)
_LATEST = Script.of(
    "return redis.call('ZREVRANGEBYSCORE', KEYS[1], ARGV[1], ARGV[2], 'WITHSCORES', 'LIMIT', 0, ARGV[3])"
)
_SILENT = Script.of(
    "local now = redis.call('TIME') "
    "local since = now[1] * 1000 + math.floor(now[2] / 1000) - ARGV[1] "
    "return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', since, 'WITHSCORES', 'LIMIT', 0, ARGV[2])"
)
_FORGET = Script.of(
    "for _, key in ipairs(KEYS) do "
    "redis.call('ZREMRANGEBYSCORE', key, '-inf', ARGV[1]) redis.call('ZREMRANGEBYRANK', key, 0, ARGV[2]) end"
)

_BUCKETS = range(keys.BUCKETS)


class Task(NamedTuple):
    """A task's state: fields as JSON text, the position that it is the state of, and its last activity in seconds of the
    Unix epoch (None where that was not asked for)."""

    task_id: str
    fields: dict[str, bytes]
    position: Position
    active: float | None = None


class Page(NamedTuple):
    """Some tasks, the most recently active first, and where to go on, None at the end."""

    tasks: Sequence[Task]
    next: tuple[float, str] | None


class Tasks:
    """What Redis knows of tasks. All calls raise BrokerUnavailable or BrokerRefused, within the deadline."""

    def __init__(self, run_script: RunScript, retention: publications.Retention, sharded: bool, max_tasks: int) -> None:
        self._run_script = run_script
        self._retention = retention
        self._sharded = sharded
        self._max_tasks = max_tasks

    async def _run(self, script: Script, calls: Sequence[tuple[list[str], list[Any]]]) -> list[Any]:
        """The answers; the first error is raised."""
        answers = await self._run_script(script, calls)
        for answer in answers:
            if isinstance(answer, BrokerError):
                raise answer
        return answers

    async def get(self, task_id: str) -> Task | None:
        """One task, or None when there is none, or no more."""
        return (await self._states([(task_id, None)]))[0]

    async def _states(self, entries: Sequence[tuple[str, float | None]]) -> list[Task | None]:
        channels = [TASK_PREFIX + task_id for task_id, _ in entries]
        answers = await self._run(_STATE, [([keys.meta(channel), keys.state(channel)], []) for channel in channels])
        tasks: list[Task | None] = []
        for (task_id, active), (epoch, top, state) in zip(entries, answers, strict=True):
            fields = store.pairs(state)
            known = fields and epoch is not None and top is not None
            tasks.append(Task(task_id, fields, Position(epoch.decode(), int(top)), active) if known else None)
        return tasks

    async def page(
        self, limit: int, statuses: frozenset[str] | None, max_age: float | None, after: tuple[float, str] | None
    ) -> Page:
        """Tasks with one of the statuses, active within the last max_age seconds; `after` is a former page's `next`.

        A page may be short, or empty, and still have a next one: a page looks at no more than some 1,000 tasks.
        """
        oldest = "-inf" if max_age is None else f"{(time() - max_age) * 1000:.0f}"
        tasks: list[Task] = []
        scanned = 0
        at_once = 4 + limit // 16
        while scanned < _SCAN:
            entries, is_all = await self._latest(after, oldest, at_once)
            for first in range(0, len(entries), limit):
                some = entries[first : first + limit]
                found = await self._states([(task_id, score / 1000) for score, task_id in some])
                for entry, task in zip(some, found, strict=True):
                    after = entry
                    scanned += 1
                    if task is not None and (statuses is None or status_of(task.fields) in statuses):
                        tasks.append(task)
                        if len(tasks) == limit:
                            return Page(tasks, after)
            if is_all:
                return Page(tasks, None)
            if not entries:
                at_once *= 2  # so many were active in one millisecond
        return Page(tasks, after)

    async def _latest(
        self, after: tuple[float, str] | None, oldest: str, at_once: int
    ) -> tuple[list[tuple[float, str]], bool]:
        """The next entries of all buckets' lists, the latest first, and whether these are all."""
        newest = "+inf" if after is None else f"{after[0]:.0f}"
        answers = await self._run(_LATEST, [([keys.tasks(bucket)], [newest, oldest, at_once]) for bucket in _BUCKETS])
        lists = [
            [(float(score), member.decode(errors="replace")) for member, score in zip(*[iter(answer)] * 2, strict=True)]
            for answer in answers
        ]
        # Beyond the last of a full list there may be more of that bucket, and these would come first.
        horizon = max((entries[-1] for entries in lists if len(entries) == at_once), default=None)
        merged = [entry for entry in merge(*lists, reverse=True) if after is None or entry < after]
        if horizon is None:
            return merged, True
        return list(takewhile(lambda entry: entry >= horizon, merged)), False

    async def beat(self, task_id: str) -> bool:
        """A sign of life of a task: it is not stalled, and if it was, its watchers see that it is no longer. False when
        there is no such task."""
        call = store.beat_arguments(task_id, self._retention, sharded=self._sharded)
        (answer,) = await self._run(store.PUBLISH_SCRIPT, [call])
        return not publications.publish_result(answer).is_duplicate

    async def lock(self, token: str, seconds: float) -> bool:
        """Become, or stay, the one relay that supervises tasks, for some seconds."""
        (answer,) = await self._run(_LOCK, [([keys.SUPERVISOR], [token, int(seconds * 1000)])])
        return bool(answer)

    async def mark_stalled(self, silent_for: float) -> int:
        """Mark tasks in progress that have been silent for some seconds; returns how many were marked.

        A task that shows life meanwhile is not marked, whoever else marks at the same time: each mark holds only if the last
        activity is the one that was seen here.
        """
        silent_ms = int(silent_for * 1000)
        answers = await self._run_script(
            _SILENT, [([keys.running(bucket)], [silent_ms, _MARK_AT_ONCE]) for bucket in _BUCKETS]
        )
        calls = [
            store.stall_arguments(
                member.decode(errors="replace"), b"%d" % int(float(score)), self._retention, sharded=self._sharded
            )
            for answer in answers
            if not isinstance(answer, BrokerError)  # one node of a cluster is away: the others' tasks are looked after
            for member, score in zip(*[iter(answer)] * 2, strict=True)
        ]
        if not calls:
            return 0
        answers = await self._run_script(store.PUBLISH_SCRIPT, calls)
        return sum(
            not isinstance(answer, BrokerError) and not publications.publish_result(answer).is_duplicate
            for answer in answers
        )

    async def forget_old(self) -> None:
        """Keep the lists within their bounds: tasks whose state is gone by age, and the least recently active of too many."""
        oldest = (time() - self._retention.task_state_ttl) * 1000
        most = max(1, self._max_tasks // keys.BUCKETS)
        await self._run(
            _FORGET, [([keys.tasks(bucket), keys.running(bucket)], [f"{oldest:.0f}", -most - 1]) for bucket in _BUCKETS]
        )
