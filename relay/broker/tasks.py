"""The tasks in Redis: their states one by one and as a list, their signs of life, and who is silent."""

from collections.abc import Awaitable, Callable, Sequence
from time import time
from typing import Any, NamedTuple, TypeVar

from redis.asyncio import Redis

from relay.broker import keys, store
from relay.broker.feeds import RunScript
from relay.core.channels import TASK_PREFIX
from relay.core.errors import BrokerError
from relay.core.taskstate import status_of
from relay.core.updates import Position

_T = TypeVar("_T")

#: Index entries looked at for one page: a filter that matches little must not read everything at once.
_SCAN = 1000
_SCAN_AT_ONCE = 200

#: Stalled tasks marked in one round.
_MARK_AT_ONCE = 200

#: A relay that holds the lock longer than it lasts must not take it from the next one.
_RENEW = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('PEXPIRE', KEYS[1], ARGV[2]) or 0"


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
    next: tuple[float, int] | None


class Tasks:
    """What Redis knows of tasks. All calls raise BrokerUnavailable or BrokerRefused, within the deadline."""

    def __init__(
        self,
        call: Callable[[Callable[[Redis], Awaitable[Any]]], Awaitable[Any]],
        run_script: RunScript,
        retention: store.Retention,
        max_tasks: int,
    ) -> None:
        self._call = call
        self._run_script = run_script
        self._retention = retention
        self._max_tasks = max_tasks

    async def get(self, task_id: str) -> Task | None:
        """One task, or None when there is none, or no more."""
        channel = TASK_PREFIX + task_id

        async def read(client: Redis) -> list[Any]:
            async with client.pipeline(transaction=True) as pipeline:
                pipeline.hmget(keys.meta(channel), "epoch", "top")
                pipeline.hgetall(keys.state(channel))
                return await pipeline.execute()

        return self._task(task_id, *await self._call(read))

    @staticmethod
    def _task(task_id: str, numbers: Sequence[bytes | None], state: Any, active: float | None = None) -> Task | None:
        fields = store.pairs(state)
        epoch, top = numbers
        if not fields or epoch is None or top is None:
            return None
        return Task(task_id, fields, Position(epoch.decode(), int(top)), active)

    async def page(
        self, limit: int, statuses: frozenset[str] | None, max_age: float | None, after: tuple[float, int] | None
    ) -> Page:
        """Tasks with one of the statuses, active within the last max_age seconds; `after` is a former page's `next`.

        A page may be short, or empty, and still have a next one: a page looks at no more than 1,000 tasks.
        """
        oldest = "-inf" if max_age is None else f"{(time() - max_age) * 1000:.0f}"
        newest, skip = after if after is not None else (float("inf"), 0)
        tasks: list[Task] = []
        for _ in range(_SCAN // _SCAN_AT_ONCE):
            entries = await self._call(
                lambda client, newest=newest, skip=skip: client.zrevrangebyscore(  # type: ignore[misc]
                    keys.INDEX, newest, oldest, start=skip, num=_SCAN_AT_ONCE, withscores=True
                )
            )
            found = await self._states([(member.decode(), float(score)) for member, score in entries])
            for (_, score), task in zip(entries, found, strict=True):
                skip = skip + 1 if score == newest else 1
                newest = float(score)
                if task is not None and (statuses is None or status_of(task.fields) in statuses):
                    tasks.append(task)
                    if len(tasks) == limit:
                        return Page(tasks, (newest, skip))
            if len(entries) < _SCAN_AT_ONCE:
                return Page(tasks, None)
        return Page(tasks, (newest, skip))

    async def _states(self, entries: Sequence[tuple[str, float]]) -> list[Task | None]:
        async def read(client: Redis) -> list[Any]:
            async with client.pipeline(transaction=False) as pipeline:
                for task_id, _ in entries:
                    pipeline.hmget(keys.meta(TASK_PREFIX + task_id), "epoch", "top")
                    pipeline.hgetall(keys.state(TASK_PREFIX + task_id))
                return await pipeline.execute()

        answers = await self._call(read) if entries else []
        return [
            self._task(task_id, answers[2 * place], answers[2 * place + 1], score / 1000)
            for place, (task_id, score) in enumerate(entries)
        ]

    async def beat(self, task_id: str) -> bool:
        """A sign of life of a task: it is not stalled, and if it was, its watchers see that it is no longer. False when
        there is no such task."""
        (answer,) = await self._run_script(store.PUBLISH_SCRIPT, [store.beat_arguments(task_id, self._retention)])
        if isinstance(answer, BrokerError):
            raise answer
        return not store.recorded(answer).is_duplicate

    async def lock(self, token: str, seconds: float) -> bool:
        """Become, or stay, the one relay that supervises tasks, for some seconds."""
        milliseconds = int(seconds * 1000)
        renewed = await self._call(lambda client: client.eval(_RENEW, 1, keys.SUPERVISOR, token, milliseconds))
        return bool(renewed) or bool(
            await self._call(lambda client: client.set(keys.SUPERVISOR, token, nx=True, px=milliseconds))
        )

    async def mark_stalled(self, silent_for: float) -> int:
        """Mark tasks in progress that have been silent for some seconds; returns how many were marked.

        A task that shows life meanwhile is not marked, whoever else marks at the same time: each mark holds only if the last
        activity is the one that was seen here.
        """

        async def look(client: Redis) -> Any:
            seconds, microseconds = await client.time()
            silent_since = seconds * 1000 + microseconds // 1000 - int(silent_for * 1000)
            return await client.zrangebyscore(
                keys.RUNNING, "-inf", silent_since, start=0, num=_MARK_AT_ONCE, withscores=True
            )

        silent = await self._call(look)
        if not silent:
            return 0
        calls = [
            store.stall_arguments(member.decode(), b"%d" % int(float(score)), self._retention)
            for member, score in silent
        ]
        answers = await self._run_script(store.PUBLISH_SCRIPT, calls)
        return sum(
            not isinstance(answer, BrokerError) and not store.recorded(answer).is_duplicate for answer in answers
        )

    async def forget_old(self) -> None:
        """Keep the index within its bounds: tasks whose state is gone by age, and the least recently active of too many."""
        oldest = (time() - self._retention.state_seconds) * 1000
        for index in (keys.INDEX, keys.RUNNING):
            await self._call(lambda client, index=index: client.zremrangebyscore(index, "-inf", oldest))  # type: ignore[misc]
            await self._call(lambda client, index=index: client.zremrangebyrank(index, 0, -self._max_tasks - 1))  # type: ignore[misc]
