"""Workers: real processes, a real Redis."""

import json
from pathlib import Path

import pytest
from relay_jobs import command, operations
from relay_jobs.manager import TaskManager
from relay_wire.creation import creation_options

from tests.conftest import StartRelay
from tests.harness import RedisServer, eventually
from tests.integration.jobs.rig import (
    HANDLERS,
    StartWorker,
    WorkerProcess,
    has_begun,
    left_in_redis,
    owner_and_parent,
    state_when,
    updates_until,
)

STAGES = [
    "post_fetching",
    "post_fetched",
    "product_designed",
    "image_generation_started",
    "image_generated",
    "image_stamped",
    "commission_complete",
]


def test_a_commission_is_watched(
    redis_server: RedisServer, manager: TaskManager, start_relay: StartRelay, start_worker: StartWorker
) -> None:
    """From its announcement to its end, every stage in order."""
    relay = start_relay()
    start_worker("relay_jobs.examples.commission:worker")
    with relay.client("c1") as client:
        manager.create("commission", {"subreddit": "golf", "seconds": 0.5}, title="A picture", task_id="c1")
        updates = updates_until(client, "c1", lambda update: update.get("status") == "completed")
    stages = [update["stage"] for update in updates if "stage" in update]
    assert list(dict.fromkeys(stages)) == STAGES
    progress = [update["progress"] for update in updates if "progress" in update]
    assert progress == sorted(progress)
    assert updates[-1]["image_url"].startswith("https://")
    eventually(lambda: left_in_redis(redis_server) == {})


def test_a_pipeline_runs_in_a_thread(manager: TaskManager, start_worker: StartWorker) -> None:
    start_worker("relay_jobs.examples.pipeline:worker")
    task_id = manager.create("pipeline", {"records": 10, "seconds": 0.4})
    state = manager.wait(task_id, 10)
    assert state.status == "completed", state
    assert state.fields["stage"] == "load"
    assert state.fields["message"] == "10 records loaded"


def test_cancelled_while_they_run(redis_server: RedisServer, manager: TaskManager, start_worker: StartWorker) -> None:
    """On the event loop, and in a thread."""
    start_worker()
    tasks = [manager.create(kind, {"seconds": 30}) for kind in ("slow", "slow_thread")]
    for task_id in tasks:
        state_when(manager, task_id, has_begun)
        assert manager.cancel(task_id)
    for task_id in tasks:
        state = manager.wait(task_id, 5)
        assert state.status == "cancelled"
        assert "error" not in state.fields
    eventually(lambda: left_in_redis(redis_server) == {})


def test_cancelled_by_a_relay(redis_server: RedisServer, manager: TaskManager, start_worker: StartWorker) -> None:
    """While they run, on the event loop and in a thread; and before they run."""
    waiting = manager.create("slow", {"seconds": 30})
    assert redis_server.request_cancel(waiting) == "requested"
    start_worker()
    running = [manager.create(kind, {"seconds": 30}) for kind in ("slow", "slow_thread")]
    for task_id in running:
        state_when(manager, task_id, has_begun)
        assert redis_server.request_cancel(task_id) == "requested"
    for task_id in (waiting, *running):
        assert manager.wait(task_id, 5).status == "cancelled"
    assert "attempt" not in manager.wait(waiting, 0).fields
    eventually(lambda: left_in_redis(redis_server) == {})


def test_a_cancelled_one_never_starts(
    redis_server: RedisServer, manager: TaskManager, start_worker: StartWorker
) -> None:
    """Neither one that was cancelled in full, nor one whose canceller died half-way."""
    whole = manager.create("slow", {"seconds": 30})
    half = manager.create("slow", {"seconds": 30})
    assert manager.cancel(whole)
    asked = next(operations.cancelled(manager.publisher.updates, half))
    assert isinstance(asked, list)
    manager.publisher.sender.deliver(asked)
    start_worker()
    for task_id in (whole, half):
        state = manager.wait(task_id, 5)
        assert state.status == "cancelled"
        assert "attempt" not in state.fields
    eventually(lambda: left_in_redis(redis_server) == {})


def test_tried_again_until_it_succeeds(manager: TaskManager, start_worker: StartWorker, tmp_path: Path) -> None:
    start_worker()
    task_id = manager.create("flaky", {"succeeds": 2, "file": str(tmp_path / "tries")})
    state_when(manager, task_id, lambda state: "Attempt 1 of 3 failed" in str(state.fields.get("message")))
    state = manager.wait(task_id, 10)
    assert (state.status, state.fields["attempt"], state.fields["tried"]) == ("completed", 2, 2)
    assert "error" not in state.fields


def test_failed_in_the_end(
    redis_server: RedisServer, manager: TaskManager, start_worker: StartWorker, tmp_path: Path
) -> None:
    """After the last attempt, or at once where another is of no use; the worker lives on."""
    worker = start_worker()
    cases = [
        ("flaky", 3, "OSError: trouble 3"),
        ("hopeless", 1, "out of paint"),
        ("exits", 2, "SystemExit: 3"),
        ("odd", 1, "object is not JSON"),
        ("hanging", 2, "TimeoutError: not done within 0.3 s"),
    ]
    tasks = [manager.create(kind, {"succeeds": 9, "file": str(tmp_path / "tries")}) for kind, _, _ in cases]
    for task_id, (_, attempts, error) in zip(tasks, cases, strict=True):
        state = manager.wait(task_id, 10)
        assert (state.status, state.fields.get("attempt")) == ("failed", attempts)
        assert error in state.fields["error"]
    eventually(lambda: left_in_redis(redis_server) == {})
    assert worker.child.poll() is None


def test_a_base_exception_ends_its_own_task_alone(
    redis_server: RedisServer, manager: TaskManager, start_worker: StartWorker
) -> None:
    """On the event loop and in a thread, also where not even its repr can be had; a neighbour goes on."""
    worker = start_worker()
    neighbour = manager.create("slow", {"seconds": 1.5})
    state_when(manager, neighbour, has_begun)
    for kind, error in (
        ("aborts", "Abort: no text"),
        ("exits_async", "SystemExit: 4"),
        ("aborts_in_thread", "Abort: no text"),
    ):
        state = manager.wait(manager.create(kind), 10)
        assert (state.status, error in state.fields["error"]) == ("failed", True), state
    state = manager.wait(neighbour, 10)
    assert (state.status, state.fields["attempt"]) == ("completed", 1)
    assert worker.child.poll() is None
    eventually(lambda: left_in_redis(redis_server) == {})


def test_poison(redis_server: RedisServer, manager: TaskManager, start_worker: StartWorker) -> None:
    """What is no task is removed, said of the tasks that it names, and does no harm to the next."""
    queue = "relay:{jobs}:queue:slow"
    good = {"kind": "slow", "params": {}, "info": {"status": "pending"}}
    jobs = {
        "no-json": "{",
        "no-job": "[1]",
        "no-kind": json.dumps(good | {"kind": "unheard-of"}),
        "elsewhere": json.dumps(good | {"kind": "flaky"}),
    }
    with redis_server.client() as client:
        client.xadd(queue, {"nothing": "here"})
        client.xadd(queue, {"task_id": "x" * 300})
        client.xadd(queue, {b"task_id": b"\xff"})
        client.xadd(queue, {"task_id": "unknown"})
        for task_id, job in jobs.items():
            client.hset(f"relay:{{jobs}}:task:{task_id}", mapping={"job": job, "token": "t"})
            client.xadd(queue, {"task_id": task_id})
    worker = start_worker()
    task_id = manager.create("slow", {"seconds": 0.1})
    assert manager.wait(task_id, 10).status == "completed"
    for poisoned in ("unknown", *jobs):
        state = manager.wait(poisoned, 5)
        assert (state.status, "attempt" in state.fields) == ("failed", False)
        assert state.fields["error"]
    eventually(lambda: left_in_redis(redis_server) == {})
    assert "no task: removed" in worker.logged()


def test_no_more_at_once_than_the_bound(manager: TaskManager, start_worker: StartWorker) -> None:
    """Of all kinds together."""
    tasks = [manager.create(kind) for _ in range(3) for kind in ("counted", "counted_thread")]
    start_worker(concurrency=2)
    most = [manager.wait(task_id, 10).fields["most_active"] for task_id in tasks]
    assert max(most) == 2, most


def test_one_that_has_ended_is_not_run_again(
    redis_server: RedisServer, manager: TaskManager, start_worker: StartWorker
) -> None:
    """Its worker died after it had told of the end, and before it told the queue."""
    task_id = manager.create("slow", {"seconds": 0.1})
    manager.publisher.publish_task_update(task_id, {"status": "completed"})
    start_worker()
    eventually(lambda: left_in_redis(redis_server) == {})
    state = manager.get(task_id)
    assert state is not None
    assert (state.status, "attempt" in state.fields) == ("completed", False)


def test_one_whose_creator_died_is_announced_and_run(
    redis_server: RedisServer, manager: TaskManager, start_worker: StartWorker, start_relay: StartRelay
) -> None:
    options = creation_options(["user:7", "ops"], "whole")
    plan = operations.created(manager.publisher.updates, 10, "slow", {"seconds": 0.1}, "Half", None, {}, options)
    taken = next(plan)
    assert isinstance(taken, list)
    manager.publisher.sender.deliver(taken)
    relay = start_relay()
    with redis_server.client() as client, relay.client() as watcher:
        ((member, _),) = client.zrange("relay:{jobs}:delayed:slow", 0, -1, withscores=True)
        client.zadd("relay:{jobs}:delayed:slow", {member: 1})  # half a minute later
        start_worker()
        info = watcher.receive()["data"]["task_info"]
        assert (info["task_id"], info["title"]) == (member.decode(), "Half")
        assert owner_and_parent(redis_server, member.decode()) == (["ops", "user:7"], "whole")
    state = manager.wait(member.decode(), 5)
    assert (state.status, state.fields["title"]) == ("completed", "Half")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nonsense",), "is not of the form MODULE:WORKER"),
        (("tests.nowhere:worker",), "there is no module 'tests.nowhere'"),
        (("tests.integration.jobs.handlers:other",), "has no 'other': it has worker, empty"),
        (("tests.integration.jobs.handlers:slow",), "is function, not"),
        (("tests.integration.jobs.handlers:empty",), "no handlers"),
        (("tests.integration.jobs.handlers:worker", "--concurrency=0"), "concurrency must be at least 1"),
        (("tests.integration.jobs.handlers:worker", "--lease=0.1"), "lease must be from 1"),
        (("tests.integration.jobs.handlers:worker", "--redis-url=http://x"), "a Redis URL must begin with"),
    ],
)
def test_commands_that_cannot_work(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    """One line that says what to do."""
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    said = capsys.readouterr().err
    assert (ended.value.code, message in said, said.count("\n")) == (2, True, 1), said


def test_a_redis_that_refuses_us(tmp_path: Path) -> None:
    """The command ends, and says why."""
    with RedisServer(tmp_path, "--save", "") as server:
        with server.client() as client:
            client.acl_setuser("nobody", enabled=True, passwords=["+secret"], commands=["+ping"])
        url = f"redis://nobody:secret@127.0.0.1:{server.port}/0"
        worker = WorkerProcess(tmp_path, url, HANDLERS, {})
        with worker:
            assert worker.wait() == 1
        assert "NOPERM" in worker.logged() or "no permissions" in worker.logged().lower()
        assert "secret" not in worker.logged()
