"""Workers that die, freeze, or are asked to end, and a Redis that does: the tasks go on."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from relay_jobs.manager import TaskManager

from tests.conftest import StartRelay
from tests.harness import RedisServer, eventually
from tests.integration.jobs.rig import StartWorker, has_begun, left_in_redis, state_when, updates_until


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """One that remembers what it was told when it is killed."""
    directory = tmp_path / "redis"
    directory.mkdir()
    options = ("--save", "", "--appendonly", "yes", "--appendfsync", "always")
    with RedisServer(directory, *options) as server:
        yield server


def test_a_killed_worker(
    redis_server: RedisServer, manager: TaskManager, start_relay: StartRelay, start_worker: StartWorker
) -> None:
    """Its watchers see that it has stalled, another takes it over, and it completes."""
    relay = start_relay(task_stall_seconds=1)
    environ = {"RELAY_TASK_STALL_SECONDS": "1"}
    victim = start_worker(environ=environ, lease=1, name="victim")
    with relay.client("t") as client:
        manager.create("slow", {"seconds": 0.6}, task_id="t")
        state_when(manager, "t", has_begun)
        victim.kill()
        updates_until(client, "t", lambda update: update.get("stalled") is True)
        start_worker(environ=environ, lease=1, name="heir")
        updates = updates_until(client, "t", lambda update: update.get("status") == "completed")
    assert {"stalled": False} in updates
    began = [update for update in updates if update.get("status") == "in_progress"]
    assert [(update["worker"], update["attempt"]) for update in began] == [("heir", 2)]
    eventually(lambda: left_in_redis(redis_server) == {})


def test_a_slow_handler_keeps_its_task(manager: TaskManager, start_worker: StartWorker) -> None:
    """Longer than the lease, with another worker at hand, and though it reports nothing."""
    start_worker(lease=1, name="first")
    task_id = manager.create("deaf", {"seconds": 2.5})
    state_when(manager, task_id, lambda state: state.status == "in_progress")
    start_worker(lease=1, name="second")
    state = manager.wait(task_id, 10)
    assert (state.status, state.fields["worker"], state.fields["attempt"]) == ("completed", "first", 1)


def test_a_frozen_worker_has_lost_its_task(
    redis_server: RedisServer, manager: TaskManager, start_worker: StartWorker
) -> None:
    """When it wakes up, it stops; what it then says of the task, nobody hears."""
    frozen = start_worker(lease=1, name="frozen")
    task_id = manager.create("slow", {"seconds": 1.5})
    state_when(manager, task_id, has_begun)
    frozen.freeze()
    start_worker(lease=1, name="heir")
    state_when(manager, task_id, lambda state: state.fields["worker"] == "heir" and has_begun(state))
    frozen.thaw()
    eventually(lambda: "another worker has it" in frozen.logged())
    state = manager.wait(task_id, 10)
    assert (state.status, state.fields["worker"], state.fields["attempt"]) == ("completed", "heir", 2)
    eventually(lambda: left_in_redis(redis_server) == {})


def test_a_task_that_kills_its_workers(
    redis_server: RedisServer, manager: TaskManager, start_worker: StartWorker
) -> None:
    """As often as there are attempts, and then no more."""
    task_id = manager.create("deadly")
    for _ in range(2):
        assert start_worker(lease=1).wait() == 9
    start_worker(lease=1)
    state = manager.wait(task_id, 10)
    assert state.status == "failed"
    assert "2 attempts did not come to an end" in state.fields["error"]
    eventually(lambda: left_in_redis(redis_server) == {})


def test_draining(manager: TaskManager, start_worker: StartWorker) -> None:
    """What can end within the grace does; the rest is another's at once, and not one attempt poorer."""
    drained = start_worker(grace=0.8, name="drained")
    kinds = ("slow", "slow_thread", "deaf")
    short = [manager.create(kind, {"seconds": 0.5}) for kind in kinds]
    long = [manager.create(kind, {"seconds": 7.0 if kind == "deaf" else 3.0}) for kind in kinds]
    for task_id in (*short, *long):
        state_when(manager, task_id, lambda state: state.status == "in_progress")
    drained.signal(signal.SIGTERM)
    began = time.monotonic()
    eventually(lambda: "draining" in drained.logged())
    after = manager.create("slow", {"seconds": 0.1})
    start_worker(name="heir")
    for task_id in long:
        state = state_when(manager, task_id, lambda state: state.fields["worker"] == "heir")
        assert state.fields["attempt"] == 1
    assert time.monotonic() - began < 12, "the lease is 30 s"
    assert drained.wait() == 0
    assert "Traceback" not in drained.logged()
    for task_id in (after, *long[:2], *short):
        state = manager.wait(task_id, 15)
        assert (state.status, state.fields["worker"]) == ("completed", "drained" if task_id in short else "heir")


def test_draining_with_a_handler_that_does_not_listen(manager: TaskManager, start_worker: StartWorker) -> None:
    """A second signal ends it at once."""
    worker = start_worker(grace=30)
    task_id = manager.create("stubborn")
    state_when(manager, task_id, has_begun)
    worker.signal(signal.SIGTERM)
    eventually(lambda: "SIGTERM: draining" in worker.logged())
    assert worker.child.poll() is None
    worker.signal(signal.SIGINT)
    assert worker.wait(3) == 128 + signal.SIGINT


def test_a_drained_worker_is_forgotten(
    redis_server: RedisServer, manager: TaskManager, start_worker: StartWorker
) -> None:
    worker = start_worker()
    manager.wait(manager.create("slow", {"seconds": 0.1}), 10)
    with redis_server.client() as client:
        assert len(client.xinfo_consumers("relay:{jobs}:queue:slow", "workers")) == 1
        worker.signal(signal.SIGINT)
        assert worker.wait() == 0
        assert client.xinfo_consumers("relay:{jobs}:queue:slow", "workers") == []


def test_redis_is_killed_in_mid_work(
    redis_server: RedisServer, manager: TaskManager, start_worker: StartWorker
) -> None:
    """The task that runs goes on and ends, and those that waited are done; each once."""
    start_worker(concurrency=1, lease=1)
    first = manager.create("slow", {"seconds": 1})
    second = manager.create("slow", {"seconds": 0.1})
    state_when(manager, first, has_begun)
    redis_server.kill()
    time.sleep(1.5)  # the lease runs out, and the handler comes to its end, while nobody can tell
    redis_server.start()
    states = [manager.wait(task_id, 15) for task_id in (first, second)]
    assert [(state.status, state.fields["attempt"]) for state in states] == [("completed", 1)] * 2
    third = manager.create("slow", {"seconds": 0.1})
    assert manager.wait(third, 10).status == "completed"
    eventually(lambda: left_in_redis(redis_server) == {})


def test_draining_while_redis_is_away(
    redis_server: RedisServer, manager: TaskManager, start_worker: StartWorker
) -> None:
    """It ends all the same; the task waits for its lease."""
    worker = start_worker(grace=0)
    task_id = manager.create("slow", {"seconds": 30})
    state_when(manager, task_id, has_begun)
    redis_server.kill()
    worker.signal(signal.SIGTERM)
    assert worker.wait(12) == 0
    assert "wait until their lease" in worker.logged()
    assert "Traceback" not in worker.logged()


def test_redis_forgets_everything(redis_server: RedisServer, manager: TaskManager, start_worker: StartWorker) -> None:
    """What runs is completed, and what is created later is done."""
    start_worker()
    first = manager.create("slow", {"seconds": 1.5})
    state_when(manager, first, has_begun)
    with redis_server.client() as client:
        client.flushall()
    second = manager.create("slow", {"seconds": 0.1})
    assert manager.wait(second, 10).status == "completed"
    eventually(lambda: (state := manager.get(first)) is not None and state.status == "completed")
    eventually(lambda: left_in_redis(redis_server) == {})
