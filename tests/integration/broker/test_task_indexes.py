"""The indexes of an owner's tasks and of a task's children: short to read, bounded, and gone with their tasks."""

from typing import Any

import pytest
import trio
from relay_wire import keys
from relay_wire.creation import CreationOptions, creation_options
from relay_wire.publications import Retention, ScriptCall

from relay.broker import script_calls
from relay.broker.service import RedisBroker
from relay.broker.task_indexes import IndexEntry
from relay.broker.task_store import TaskStore
from relay.core.errors import BrokerError
from relay.core.grants import EVERYTHING, NOTHING, Grant, Scope, Verb
from relay.core.task_filter import TaskFilter
from tests.harness import RedisServer
from tests.integration.broker.test_task_store import opened

RETENTION = Retention()


def published(
    task_id: str, options: CreationOptions, data: bytes = b'{"status":"in_progress"}', retention: Retention = RETENTION
) -> ScriptCall:
    return script_calls.publish_call(f"task:{task_id}", "task_update", data, retention, options=options)


async def run(redis: RedisBroker, *calls: ScriptCall) -> list[Any]:
    answers = []
    for first in range(0, len(calls), 200):
        answers += await redis.run_calls(calls[first : first + 200])
    assert not [answer for answer in answers if isinstance(answer, BrokerError)]
    return answers


async def listed(tasks: TaskStore, wanted: TaskFilter, limit: int = 100) -> list[str]:
    found: list[str] = []
    after: IndexEntry | None = None
    while True:
        page = await tasks.page(limit, after, wanted)
        found += [task.task_id for task in page.tasks]
        if page.next is None:
            return found
        after = page.next


def owned_by(*owners: str) -> TaskFilter:
    return TaskFilter(owners=frozenset(owners))


async def test_the_tasks_of_an_owner_are_found_without_a_look_at_all(redis_server: RedisServer) -> None:
    async with opened(redis_server) as (redis, tasks, counting):
        await run(redis, *[published(f"other-{number}", creation_options("user:8")) for number in range(3000)])
        await run(redis, *[published(f"mine-{number}", creation_options(["user:7", "ops"])) for number in range(30)])
        await run(redis, *[published(f"ours-{number}", creation_options(["ops"])) for number in range(5)])
        await run(redis, published("mine-0", CreationOptions(), b'{"status":"failed"}'))
        page = await tasks.page(100, None, owned_by("user:7"))
        assert counting.round_trips <= 6
        assert page.next is None
        assert sorted(task.task_id for task in page.tasks) == sorted(f"mine-{number}" for number in range(30))
        assert len(await listed(tasks, owned_by("user:7", "ops"), limit=4)) == 35
        assert await listed(tasks, TaskFilter(frozenset(["failed"]), owners=frozenset(["ops"]))) == ["mine-0"]
        assert await listed(tasks, owned_by("user:9")) == []


def listable(groups: tuple[str, ...] = (), **scope: Any) -> TaskFilter:
    """What a client sees that may list what `scope` says, and is a member of some groups."""
    return TaskFilter(visible_to=Grant({Verb.LIST: Scope(**scope)}, groups=frozenset(groups)))


#: A grant, and which of 3,050 tasks it shows.
OF_GRANTS = {
    "owned": (listable(("user:7",), owned=True), {"mine"}),
    "owned by one of many groups": (
        listable((*(f"g:{n}" for n in range(63)), "ops"), owned=True),
        {"mine", "ours"},
    ),
    "ids": (listable(tasks=frozenset([*(f"ours-{n}" for n in range(5)), "none"])), {"ours"}),
    "prefixes": (listable(prefixes=("mine-", "ours-", "no")), {"mine", "ours"}),
    "all of these": (
        listable(("ops",), owned=True, prefixes=("mine-1",), tasks=frozenset(["plain-3"])),
        {"mine", "ours", "p"},
    ),
    "ids with a status": (
        TaskFilter(frozenset(["failed"]), visible_to=listable(prefixes=("mine-",)).visible_to),
        {"0"},
    ),
}


async def test_what_a_grant_shows_is_found_without_a_look_at_all(redis_server: RedisServer) -> None:
    """Few round trips, and Redis commands in proportion to what is shown, and not to what there is."""
    ids = {
        "mine": {f"mine-{number}" for number in range(30)},
        "ours": {f"ours-{number}" for number in range(5)},
        "p": {"plain-3"},
        "0": {"mine-0"},
    }
    async with opened(redis_server) as (redis, tasks, counting):
        await run(redis, *[published(each, creation_options(["user:7", "ops"])) for each in ids["mine"]])
        await run(redis, *[published(each, creation_options(["ops"])) for each in ids["ours"]])
        await run(redis, published("mine-0", CreationOptions(), b'{"status":"failed"}'))
        await run(redis, *[published(f"plain-{number}", CreationOptions()) for number in range(15)])
        await run(redis, *[published(f"other-{number}", creation_options("user:8")) for number in range(3000)])
        with redis_server.client() as client:
            for wanted, names in OF_GRANTS.values():
                expected = set[str]().union(*(ids[name] for name in names))
                counting.round_trips = 0
                client.config_resetstat()
                page = await tasks.page(100, None, wanted)
                assert {task.task_id for task in page.tasks} == expected
                assert page.next is None
                assert counting.round_trips <= 4
                commands = client.info("commandstats")
                calls = sum(commands[f"cmdstat_{name}"]["calls"] for name in commands_of(commands))
                assert calls <= 12 * 36, "of some for each task that the grant covers"
                assert sorted(await listed(tasks, wanted, limit=2)) == sorted(expected)
            client.config_resetstat()
            assert (await tasks.page(100, None, TaskFilter(visible_to=NOTHING))).tasks == []
            assert not commands_of(client.info("commandstats")), "who may list nothing costs nothing"
        assert len(await listed(tasks, TaskFilter(visible_to=EVERYTHING), limit=500)) == 3050


def commands_of(statistics: dict[str, Any]) -> list[str]:
    """The commands, among those that Redis has counted, that read a task."""
    reading = ("hget", "hmget", "hgetall", "hstrlen")
    return [name for name in reading if f"cmdstat_{name}" in statistics]


async def test_more_groups_than_indexes_are_read_for_see_their_tasks(redis_server: RedisServer) -> None:
    async with opened(redis_server) as (redis, tasks, _):
        await run(redis, *[published(f"t-{number}", creation_options(f"group:{number}")) for number in range(200)])
        wanted = listable(tuple(f"group:{number}" for number in range(100)), owned=True)
        assert sorted(await listed(tasks, wanted)) == sorted(f"t-{number}" for number in range(100))


async def test_a_task_is_listed_by_its_present_owner_and_parent(redis_server: RedisServer) -> None:
    async with opened(redis_server) as (redis, tasks, _):
        await run(redis, published("t", creation_options("user:7", "p")))
        assert await listed(tasks, owned_by("user:7")) == await listed(tasks, TaskFilter(parent_id="p")) == ["t"]
        await run(redis, published("t", creation_options("user:8")))
        assert await listed(tasks, owned_by("user:7")) == []
        assert await listed(tasks, owned_by("user:8")) == await listed(tasks, TaskFilter(parent_id="p")) == ["t"]
        await run(redis, published("t", CreationOptions(), b'{"status":"completed"}'))
        await run(redis, published("t", creation_options("user:9", "q")))  # a new life
        for wanted in (owned_by("user:7"), owned_by("user:8"), TaskFilter(parent_id="p")):
            assert await listed(tasks, wanted) == []
        for wanted in (owned_by("user:9"), TaskFilter(parent_id="q")):
            assert await listed(tasks, wanted) == ["t"]
        with redis_server.client() as client:
            assert {key for key in client.scan_iter("*:tasks") if b"owner" in key or b"parent" in key} == {
                key.encode()
                for bucket in range(keys.BUCKETS)
                for key in (keys.tasks_of_owner(bucket, "user:9"), keys.tasks_of_parent(bucket, "q"))
                if client.exists(key)
            }


async def test_an_index_goes_with_its_tasks(redis_server: RedisServer) -> None:
    short = Retention(task_state_ttl=1)
    async with opened(redis_server) as (redis, tasks, _):
        await run(redis, published("t", creation_options("user:7"), retention=short))
        assert await listed(tasks, owned_by("user:7")) == ["t"]
        await trio.sleep(1.2)
        assert await listed(tasks, owned_by("user:7")) == []
        with redis_server.client() as client:
            assert not list(client.scan_iter("*owner*"))


async def test_an_index_is_bounded(redis_server: RedisServer) -> None:
    ids = [f"t{number}" for number in range(200_000)]
    of_one_bucket = [each for each in ids if keys.tag_of(keys.meta(f"task:{each}")) == "0"][:1100]
    async with opened(redis_server) as (redis, tasks, _):
        await run(redis, *[published(each, creation_options("user:7")) for each in of_one_bucket])
        with redis_server.client() as client:
            assert client.zcard(keys.tasks_of_owner(0, "user:7")) == 1000
        assert of_one_bucket[-1] in await listed(tasks, owned_by("user:7"), limit=500)


@pytest.mark.parametrize("key", [keys.tasks_of_owner, keys.tasks_of_parent])
async def test_what_others_put_there_holds_up_no_update(key: Any, redis_server: RedisServer) -> None:
    bucket = int(keys.tag_of(keys.meta("task:t")))
    with redis_server.client() as client:
        client.set(key(bucket, "x"), "not an index")
    async with opened(redis_server) as (redis, tasks, _):
        await run(redis, published("t", creation_options("x", "x")))
        with redis_server.client() as client:
            client.hset(keys.meta("task:t"), "owner", "{")
        await run(redis, published("t", CreationOptions(), b'{"status":"failed"}'))
        assert [task.task_id for task in (await tasks.page(5, None)).tasks] == []  # its owner cannot be read
        await run(redis, published("t", creation_options("x")))
        assert await listed(tasks, TaskFilter()) == ["t"]


async def test_few_tasks_by_the_beginnings_of_their_ids_are_not_looked_for(shared_redis: RedisServer) -> None:
    wanted = listable(prefixes=("a/", "a/1", "ü", "none"))
    many = listable(prefixes=("a/", *(f"none-{number}" for number in range(40))))
    async with opened(shared_redis) as (redis, tasks, _):
        await run(redis, *[published(each, CreationOptions()) for each in ("a/1", "a/2", "über", "b", "a")])
        await run(redis, *[published(f"other-{number}", CreationOptions()) for number in range(2000)])
        with shared_redis.client() as client:
            client.config_resetstat()
            assert await listed(tasks, wanted) == ["über", "a/2", "a/1"]
            assert "cmdstat_zrevrangebyscore" not in client.info("commandstats"), "it looked at others"
            assert await listed(tasks, many) == ["a/2", "a/1"]
            assert await listed(tasks, wanted, limit=1) == ["über", "a/2", "a/1"]
            # Tasks that an older publisher has listed, or that others have taken out, are found after a few seconds.
            client.delete(*(keys.names(bucket) for bucket in range(keys.BUCKETS)))
            assert await listed(tasks, wanted) == []
            await tasks.forget_old()
            assert await listed(tasks, wanted) == ["über", "a/2", "a/1"]
            for key in (keys.channel_keys("task:über")[4], keys.channel_keys("task:a/2")[4]):
                client.zrem(key, "über", "a/2")
            assert await listed(tasks, wanted) == ["a/1"], "names alone list nothing"
            await tasks.forget_old()
            assert await tasks.delete("a/1")
            assert await listed(tasks, wanted) == []
            counts = {
                name: sum(client.zcard(name(bucket)) for bucket in range(keys.BUCKETS))
                for name in (keys.tasks, keys.names)
            }
            assert set(counts.values()) == {2002}
