"""The manager, without a worker."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from relay_client.errors import DeliveryTimedOut
from relay_client.publisher import Publisher
from relay_jobs import aio, operations
from relay_jobs.errors import BacklogFull, TaskExists
from relay_jobs.job import BadJob, decoded, new_job
from relay_jobs.manager import TaskManager
from relay_wire.creation import NO_OPTIONS, creation_options

from tests.conftest import StartRelay
from tests.harness import RedisServer, eventually
from tests.integration.jobs.rig import left_in_redis, owner_and_parent
from tests.ports import free_port


@pytest.fixture(scope="module")
def redis_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), "--save", "") as server:
        yield server


@pytest.fixture
def redis_server(redis_home: RedisServer) -> RedisServer:
    with redis_home.client() as client:
        client.flushall()
    return redis_home


def test_a_new_task_is_announced(redis_server: RedisServer, manager: TaskManager, start_relay: StartRelay) -> None:
    """To every client, and as a first state for those who come later. Its parameters are the worker's alone."""
    relay = start_relay()
    with relay.client() as client:

        def is_heard() -> bool:
            """Nobody tells a client from when on it hears what is for everyone."""
            redis_server.publish_general(again=True)
            try:
                return bool(client.receive(0.2))
            except TimeoutError:
                return False

        eventually(is_heard)
        task_id = manager.create("commission", {"secret": 1}, title="A picture", fields={"tier": "gold"})
        while "task_info" not in (news := client.receive()["data"]):
            assert news == {"again": True}
        info = news["task_info"]
        expected = {"kind": "commission", "title": "A picture", "tier": "gold", "status": "pending", "progress": 0}
        assert info.items() >= (expected | {"task_id": task_id}).items()
        client.subscribe(task_id)
        state = client.receive()["data"]
        assert state.items() >= expected.items()
        assert "secret" not in str(info) + str(state)


def test_states_and_lists(manager: TaskManager) -> None:
    first = manager.create("commission", title="one")
    second = manager.create("pipeline", task_id="mine")
    assert second == "mine"
    state = manager.get(first)
    assert state is not None
    assert (state.status, state.fields["title"], state.has_ended) == ("pending", "one", False)
    assert manager.get("nobody") is None
    assert [task.task_id for task in manager.list()] == [second, first]
    assert [task.task_id for task in manager.list(limit=1)] == [second]
    assert [task.task_id for task in manager.list(kind="commission")] == [first]
    assert manager.cancel(first)
    assert [task.task_id for task in manager.list(status="cancelled")] == [first]
    assert [task.task_id for task in manager.list(status={"cancelled", "pending"})] == [first, second]
    with pytest.raises(ValueError, match="limit"):
        manager.list(limit=0)


def test_waiting(manager: TaskManager) -> None:
    task_id = manager.create("commission")
    with pytest.raises(TimeoutError, match="it is pending"):
        manager.wait(task_id, 0.1)
    manager.cancel(task_id)
    assert manager.wait(task_id, 0.0).status == "cancelled"
    with pytest.raises(LookupError):
        manager.wait("nobody", 1.0)


def test_cancelled_while_it_waits(redis_server: RedisServer, manager: TaskManager) -> None:
    """Nothing is left, and it makes room."""
    with TaskManager(redis_server.url, max_backlog=1) as small:
        task_id = small.create("commission")
        assert small.cancel(task_id)
        assert left_in_redis(redis_server) == {}
        assert not small.cancel(task_id), "it has ended"
        small.create("commission")
    assert not manager.cancel("nobody")


def test_who_owns_a_task_and_its_parent(redis_server: RedisServer, manager: TaskManager) -> None:
    """From its creation on. Clients see neither among its fields."""
    parent = manager.create("pipeline", owner="user:7")
    child = manager.create("commission", owner={"user:7", "ops"}, parent_id=parent)
    plain = manager.create("commission")
    assert owner_and_parent(redis_server, parent) == (["user:7"], None)
    assert owner_and_parent(redis_server, child) == (["ops", "user:7"], parent)
    assert owner_and_parent(redis_server, plain) == (None, None)
    state = manager.get(child)
    assert state is not None
    assert not {"owner", "parent_id"} & set(state.fields)


def test_a_job_keeps_its_owner_and_parent() -> None:
    for options in (NO_OPTIONS, creation_options([]), creation_options(["b", "a"], 7)):
        job = new_job("one", "commission", {"a": 1}, "A title", {}, options)
        assert decoded("one", job.encoded()) == job


@pytest.mark.parametrize("wrong", ['"owner":7', '"owner":[""]', '"parent_id":{}', '"parent_id":"one"'])
def test_a_job_with_a_wrong_owner_or_parent(wrong: str) -> None:
    with pytest.raises(BadJob, match="owner or parent"):
        decoded("one", '{"kind":"k","params":{},"info":{},' + wrong + "}")


def test_the_backlog_is_bounded(redis_server: RedisServer) -> None:
    """A refused task leaves no trace; other kinds are not concerned."""
    with TaskManager(redis_server.url, max_backlog=2) as small:
        for _ in range(2):
            small.create("commission")
        held = left_in_redis(redis_server)
        with pytest.raises(BacklogFull, match="2 tasks of kind 'commission'"):
            small.create("commission")
        assert left_in_redis(redis_server) == held
        assert len(small.list()) == 2
        small.create("pipeline")


def test_an_id_is_used_once(manager: TaskManager) -> None:
    manager.create("commission", task_id="one")
    with pytest.raises(TaskExists, match="'one'"):
        manager.create("pipeline", task_id="one")
    manager.cancel("one")
    with pytest.raises(TaskExists):  # Redis still knows how it ended
        manager.create("commission", task_id="one")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"kind": "two words"}, "kind"),
        ({"kind": "a}b"}, "kind"),
        ({"kind": "k", "params": {"x": object()}}, "JSON"),
        ({"kind": "k", "params": {"x": "y" * 300_000}}, "bytes"),
        ({"kind": "k", "task_id": ""}, "characters"),
        ({"kind": "k", "fields": {"x": float("nan")}}, "JSON"),
        ({"kind": "k", "owner": ""}, "owner"),
        ({"kind": "k", "task_id": "a", "parent_id": "a"}, "its own parent"),
    ],
)
def test_what_cannot_be_a_task(
    redis_server: RedisServer, manager: TaskManager, arguments: dict[str, Any], match: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=match):
        manager.create(**arguments)
    assert left_in_redis(redis_server) == {}


def test_creating_twice_by_a_retry_is_once(redis_server: RedisServer, manager: TaskManager) -> None:
    """The calls of one `create` may be sent again, when only their answers were lost."""
    plan = operations.created(manager.publisher.updates, 10, "commission", {}, None, None, {})
    step = next(plan)
    while True:
        assert isinstance(step, list)
        for call in step:
            again = type(call)(call.channel, call.keys, call.script, call.values, command=call.command)
            manager.publisher.sender.deliver([again])
        manager.publisher.sender.deliver(step)
        try:
            step = next(plan)
        except StopIteration:
            break
    with redis_server.client() as client:
        assert client.xlen("relay:{jobs}:queue:commission") == 1
        assert client.zcard("relay:{jobs}:delayed:commission") == 0


def test_without_redis(tmp_path: Path) -> None:
    publisher = Publisher(f"redis://127.0.0.1:{free_port()}/0", deadline=0.3, timeout=0.2)
    with publisher, TaskManager(publisher) as manager, pytest.raises(DeliveryTimedOut):
        manager.create("commission")


def test_from_asyncio(redis_server: RedisServer) -> None:
    async def run() -> None:
        async with aio.TaskManager(redis_server.url, max_backlog=2) as manager:
            task_id = await manager.create("commission", {"a": 1}, title="one", owner="user:7", parent_id="whole")
            assert owner_and_parent(redis_server, task_id) == (["user:7"], "whole")
            state = await manager.get(task_id)
            assert state is not None
            assert state.status == "pending"
            assert [task.task_id for task in await manager.list()] == [task_id]
            with pytest.raises(TimeoutError):
                await manager.wait(task_id, 0.1)
            assert await manager.cancel(task_id)
            assert (await manager.wait(task_id, 1.0)).status == "cancelled"

    asyncio.run(run())
