"""Children rolled up into their parents, on a real Valkey: whatever happens on the way, a parent counts each of them once."""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from relay_wire import keys
from relay_wire.creation import CreationOptions
from relay_wire.publications import Retention, ScriptCall

from relay.broker import script_calls
from relay.broker.child_roll_ups import ChildRollUps
from relay.broker.service import RedisBroker
from relay.core.errors import BrokerError, BrokerUnavailable
from tests.conftest import StartRelay
from tests.harness import RedisServer
from tests.integration.broker.durable import opened

RETENTION = Retention()
ENDED = ("completed", "failed", "cancelled")


def published(task_id: str, parent: str | None = None, **fields: Any) -> ScriptCall:
    options = CreationOptions(parent_id=parent)
    return script_calls.publish_call(
        f"task:{task_id}", "task_update", json.dumps(fields).encode(), RETENTION, options=options
    )


async def run(redis: RedisBroker, *calls: ScriptCall) -> None:
    answers = await redis.run_calls(calls)
    assert not [answer for answer in answers if isinstance(answer, BrokerError)], answers


async def shown(redis: RedisBroker, parent: str = "p") -> Any:
    task = await redis.tasks(1000).get(parent)
    return None if task is None or "children" not in task.fields else json.loads(task.fields["children"])


def notes(server: RedisServer) -> int:
    with server.client() as client:
        return sum(client.hlen(keys.roll_ups(bucket)) for bucket in range(keys.BUCKETS))


async def test_one_relay_looks_for_notes_and_finds_them(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        roll_ups = redis.child_roll_ups()
        assert not await roll_ups.may_carry("this", 60.0)
        await run(redis, published("p", status="in_progress"), published("a", "p", status="completed"))
        assert await roll_ups.may_carry("this", 60.0)
        assert not await roll_ups.may_carry("another", 60.0)
        await roll_ups.carry()
        assert not await roll_ups.may_carry("this", 60.0)


async def test_a_parent_shows_what_its_children_have_come_to(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        roll_ups = redis.child_roll_ups()
        await run(
            redis,
            published("p", status="in_progress"),
            published("a", "p", status="completed"),
            published("b", "p", status="in_progress", progress=50, weight=2),
            published("c", "p", status="in_progress"),
        )
        with redis_server.client() as client:
            seen = client.zscore(keys.running(int(keys.tag_of(keys.meta("task:c")))), "c")
        await run(redis, script_calls.mark_stalled_call("c", f"{seen:.0f}", RETENTION))
        assert await roll_ups.carry() == 3
        assert await shown(redis) == {
            "total": 3,
            "done": 1,
            "pending": 0,
            "in_progress": 2,
            "completed": 1,
            "failed": 0,
            "cancelled": 0,
            "percent": 50.0,
            "status": "in_progress",
            "stalled": 1,
            "stalled_tasks": ["c"],
        }
        assert await roll_ups.carry() == notes(redis_server) == 0
        assert await redis.tasks(1000).heartbeat("c")
        await run(redis, published("b", status="failed", error="boom"))
        await roll_ups.carry()
        after = await shown(redis)
        assert (after["done"], after["status"], after["stalled"], after["percent"]) == (2, "failed", 0, 75.0)


async def test_a_parent_that_is_created_later_has_them_too(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        roll_ups = redis.child_roll_ups()
        await run(redis, published("a", "p", status="completed"))
        await roll_ups.carry()
        assert await shown(redis) is None
        await run(redis, published("p", status="in_progress"))
        await roll_ups.carry()
        assert (await shown(redis))["total"] == 1


async def test_a_new_life_of_the_parent_begins_without_children(redis_server: RedisServer) -> None:
    async with opened(redis_server) as redis:
        roll_ups = redis.child_roll_ups()
        await run(redis, published("p", status="in_progress"), published("a", "p", status="completed"))
        await roll_ups.carry()
        await run(redis, published("p", status="completed"), published("p", status="in_progress"))
        await run(redis, published("b", "p", status="pending"))
        await roll_ups.carry()
        assert (await shown(redis))["total"] == 1
        # A child that begins again elsewhere, and one that is deleted, are counted no longer.
        await run(redis, published("b", status="completed"), published("b", "q", status="pending"))
        await roll_ups.carry()
        assert (await shown(redis))["total"] == 0
        await run(redis, published("c", "p", status="pending"))
        await roll_ups.carry()
        assert (await shown(redis))["total"] == 1
        await redis.tasks(1000).delete("c")
        await roll_ups.carry()
        assert (await shown(redis))["total"] == 0


async def test_children_are_bounded_and_so_is_the_time_for_which_they_are_kept(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay_wire.publications.MAX_CHILDREN", 2)
    async with opened(redis_server) as redis:
        await run(redis, published("p", status="in_progress"))
        await run(redis, *[published(f"c{number}", "p", status="pending") for number in range(4)])
        await redis.child_roll_ups().carry()
        assert {name: value for name, value in (await shown(redis)).items() if name in ("total", "truncated")} == {
            "total": 2,
            "truncated": True,
        }
        with redis_server.client() as client:
            own = [key for pattern in ("*:task:p:*", "*:rollups") for key in client.scan_iter(pattern)]
            assert len(own) >= 4
            assert all(client.pttl(key) > 0 for key in own)


STEP = st.tuples(
    st.sampled_from(["update", "update", "update", "carry", "carry late", "carry half", "new parent"]),
    st.sampled_from("abcd"),
    st.sampled_from(["pending", "in_progress", *ENDED]),
    st.integers(0, 100),
)


class Breaking:
    """Runs calls, and breaks off after some."""

    def __init__(self, redis: RedisBroker, calls_left: int) -> None:
        self.redis = redis
        self.calls_left = calls_left

    async def run_calls(self, calls: Sequence[ScriptCall]) -> list[Any]:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise BrokerUnavailable("cut off")
        return await self.redis.run_calls(calls)


@given(st.lists(STEP, max_size=20))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_breaks_each_child_is_counted_once(shared_redis: RedisServer, steps: list[Any]) -> None:
    trio.run(counted_once, shared_redis, steps)


async def counted_once(server: RedisServer, steps: list[Any]) -> None:
    server.clear()
    async with opened(server) as redis:
        roll_ups = redis.child_roll_ups()
        await run(redis, published("p", status="in_progress"))
        children: dict[str, tuple[str, int]] = {}
        last: dict[str, str] = {}
        for kind, child, status, progress in steps:
            if kind == "update":
                if last.get(child) == status == "in_progress":
                    continue  # mere progress is added when there is time for it
                last[child] = status
                await run(redis, published(child, "p", status=status, progress=progress))
                children[child] = (status, progress)
            elif kind == "carry":
                await roll_ups.carry()
            elif kind == "new parent":
                await roll_ups.carry()
                await run(redis, published("p", status="completed"), published("p", status="in_progress"))
                children = {}
            else:
                # A relay dies after it has read, or after a parent includes the child.
                breaking = Breaking(redis, 1 if kind == "carry late" else 2)
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr("relay.broker.child_roll_ups._NOTES_AT_ONCE", 1)
                    with suppress(BrokerUnavailable):
                        await ChildRollUps(breaking.run_calls, breaking.run_calls, RETENTION, sharded=False).carry()
        await roll_ups.carry()
        numbers = await shown(redis) or {"total": 0, "done": 0, "percent": 0.0}
        assert numbers["total"] == len(children)
        assert numbers["done"] == sum(status in ENDED for status, _ in children.values())
        percents = [100 if status in ENDED else progress for status, progress in children.values()]
        assert numbers["percent"] == pytest.approx(sum(percents) / len(percents) if percents else 0.0, abs=0.01)


def test_watchers_of_a_parent_see_it_on_real_relays(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relays = [start_relay(), start_relay()]
    with relays[0].client("p") as client:
        with redis_server.client() as redis:
            redis.publish("task_updates", '{"type":"task_update","task_id":"p","data":{"status":"in_progress"}}')
            for number in range(3):
                redis.publish(
                    "task_updates",
                    json.dumps(
                        {
                            "type": "task_update",
                            "task_id": f"c{number}",
                            "parent_id": "p",
                            "data": {"status": "completed"},
                        }
                    ),
                )
        while (children := client.receive()["data"].get("children")) is None or children["total"] < 3:
            pass
        assert (children["done"], children["percent"], children["status"]) == (3, 100.0, "completed")
