"""The list of tasks: ages by Redis' clock, bounded work, and entries that are none of Relay's."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import time
from typing import Any

import msgspec
import pytest
import trio
from relay_wire import keys
from relay_wire.publications import Retention, ScriptCall
from structlog.testing import capture_logs

from relay.broker import script_calls, task_store
from relay.broker.opening import open_redis
from relay.broker.service import RedisBroker
from relay.broker.task_list import Task
from relay.broker.task_store import TaskStore
from relay.config import RedisSettings, Settings
from relay.core.task_filter import TaskFilter
from tests.harness import RedisServer

SETTINGS = Settings(_env_file=None)  # type: ignore[call-arg]
REDIS_SETTINGS = RedisSettings(_env_file=None)  # type: ignore[call-arg]
RETENTION = Retention()


class Counting:
    """Runs calls, and counts the round trips that they take."""

    def __init__(self, redis: RedisBroker) -> None:
        self.redis = redis
        self.round_trips = 0

    async def run_calls(self, calls: Sequence[ScriptCall]) -> list[Any]:
        self.round_trips += 1
        return await self.redis.run_calls(calls)


@asynccontextmanager
async def opened(server: RedisServer) -> AsyncIterator[tuple[RedisBroker, TaskStore, Counting]]:
    with trio.fail_after(60):
        async with open_redis(server.url, SETTINGS, REDIS_SETTINGS) as redis:
            counting = Counting(redis)
            store = TaskStore(redis.run_calls, redis.run_calls, counting.run_calls, RETENTION, 100_000, sharded=False)
            yield redis, store, counting


async def publish(redis: RedisBroker, count: int, **fields: Any) -> None:
    calls = [
        script_calls.publish_call(f"task:{number}", "task_update", msgspec.json.encode(fields), RETENTION)
        for number in range(count)
    ]
    for first in range(0, count, 200):
        await redis.run_calls(calls[first : first + 200])


async def test_a_clock_that_is_fast_here_neither_forgets_nor_marks(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_store, "time", lambda: time() + 2 * 86400, raising=False)
    monkeypatch.setattr("time.time", lambda: 4e9)
    async with opened(redis_server) as (redis, tasks, _):
        await publish(redis, 5, status="in_progress")
        await tasks.forget_old()
        assert len((await tasks.page(10, None)).tasks) == 5
        assert len((await tasks.page(10, None, TaskFilter(max_age=60.0))).tasks) == 5
        assert await tasks.mark_stalled(60.0) == 0


@pytest.mark.parametrize(("max_tasks", "expected"), [(100_000, [1]), (1, [1, 5])])
async def test_one_script_looks_at_all_buckets_and_only_outdated_ones_are_changed(
    redis_server: RedisServer, max_tasks: int, expected: list[int]
) -> None:
    async with opened(redis_server) as (redis, _, counting):
        calls: list[int] = []

        async def run_calls(some: Sequence[ScriptCall]) -> list[Any]:
            calls.append(len(some))
            return await redis.run_calls(some)

        tasks = TaskStore(run_calls, run_calls, counting.run_calls, RETENTION, max_tasks, sharded=False)
        with redis_server.client() as client:
            for bucket in range(5):
                client.zadd(keys.tasks(bucket), {"a": 1e15, "b": 2e15})
                client.zadd(keys.names(bucket), {"a": 0, "b": 0})
            await tasks.forget_old()
            assert calls == expected
            assert client.zcard(keys.tasks(0)) == client.zcard(keys.names(0)) == (2 if max_tasks > 1 else 1)


async def test_what_expired_is_forgotten_and_does_not_return_as_stalled(redis_server: RedisServer) -> None:
    short = Retention(task_state_ttl=1)
    async with opened(redis_server) as (redis, _, counting):
        tasks = TaskStore(redis.run_calls, redis.run_calls, counting.run_calls, short, 100_000, sharded=False)
        call = script_calls.publish_call("task:t", "task_update", b'{"status":"in_progress"}', short)
        await redis.run_calls([call])
        await trio.sleep(1.2)
        assert await tasks.mark_stalled(0.1) == 0
        await tasks.forget_old()
        assert await tasks.get("t") is None
        assert (await tasks.page(10, None)).tasks == []
        with redis_server.client() as client:
            assert not client.exists(keys.state("task:t"))


@pytest.mark.parametrize("limit", [1, 100])
async def test_a_filter_that_finds_nothing_costs_a_few_round_trips_and_says_that_it_is_not_finished(
    limit: int, redis_server: RedisServer
) -> None:
    async with opened(redis_server) as (redis, tasks, counting):
        await publish(redis, 3000, status="in_progress")
        page = await tasks.page(limit, None, TaskFilter(frozenset({"failed"})))
        assert page.tasks == []
        assert page.next is not None
        assert counting.round_trips <= 20
        pages = 1
        after: tuple[float, str] | None = page.next
        while after:
            after = (await tasks.page(limit, after, TaskFilter(frozenset({"failed"})))).next
            pages += 1
        assert pages <= 6


async def test_a_filter_looks_at_no_large_field(redis_server: RedisServer) -> None:
    async with opened(redis_server) as (redis, tasks, _):
        for task_id, length in (("small", 8000), ("large", 300_000)):
            await redis.publish_task_update(task_id, {"title": "x" * length + " sea", "kind": "film"})
        for wanted, found in ((TaskFilter(text="sea"), {"small"}), (TaskFilter(text="large"), {"large"})):
            assert {task.task_id for task in (await tasks.page(10, None, wanted)).tasks} == found


async def test_a_page_is_bounded_in_bytes_and_the_next_goes_on(redis_server: RedisServer) -> None:
    async with opened(redis_server) as (redis, tasks, _):
        await publish(redis, 30, status="in_progress", text="x" * 300_000)
        found: list[str] = []
        after, pages = None, 0
        while True:
            page = await tasks.page(100, after)
            assert sum(len(value) for task in page.tasks for value in task.fields.values()) < 8 * 1024 * 1024
            found += [task.task_id for task in page.tasks]
            pages, after = pages + 1, page.next
            if after is None:
                break
        assert sorted(found, key=int) == [str(number) for number in range(30)]
        assert pages >= 3


async def test_a_page_lists_each_task_once_the_latest_first(redis_server: RedisServer) -> None:
    async with opened(redis_server) as (redis, tasks, _):
        await publish(redis, 100, status="completed")
        await publish(redis, 40, status="in_progress")
        found: list[Task] = []
        after = None
        for _ in range(100):
            page = await tasks.page(7, after, TaskFilter(frozenset({"completed"})))
            found += page.tasks
            after = page.next
            if after is None:
                break
        assert sorted(int(task.task_id) for task in found) == list(range(40, 100))
        active = [task.active for task in found if task.active is not None]
        assert active == sorted(active, reverse=True)


async def test_what_others_put_into_the_indexes_holds_up_nothing(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        for bucket in range(keys.BUCKETS):
            bad: dict[bytes | str, float] = {b"\xff%d" % number: number for number in range(60)}
            bad |= {"forever": float("inf"), "never": float("-inf")}
            for key in (keys.tasks(bucket), keys.running(bucket)):
                client.zadd(key, bad)
        client.set(keys.state("task:odd"), "x")
        client.zadd(keys.tasks(0), {"odd": 2e12})
    with capture_logs() as logs:
        async with opened(redis_server) as (redis, tasks, _):
            await publish(redis, 5, status="in_progress")
            await trio.sleep(0.02)
            for _ in range(2):
                page = await tasks.page(10, None)
                assert sorted(task.task_id for task in page.tasks) == ["0", "1", "2", "3", "4"]
            assert len((await tasks.page(10, None, TaskFilter(frozenset({"in_progress"})))).tasks) == 5
            marked = 0
            for _ in range(3):
                marked += await tasks.mark_stalled(0.01)
            assert marked == 5
            await tasks.forget_old()
    assert sum(line["event"].startswith("task cannot be read") for line in logs) == 1
    with redis_server.client() as client:
        assert sum(client.zcard(keys.running(bucket)) for bucket in range(keys.BUCKETS)) == 0
