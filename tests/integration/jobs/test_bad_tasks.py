"""Tasks that cannot be carried out: they fail, and nothing else does."""

import pytest
from relay_jobs.manager import TaskManager

from tests.harness import RedisServer, eventually
from tests.integration.jobs.rig import StartWorker, left_in_redis, state_when

BAD = {
    "big": "cannot be published",
    "many fields": "cannot be published",
    "nested": "cannot be published",
    "surrogate": "caf\\udce9.txt",
    "mute": "its text cannot be read: IndexError",
    "long": "xxxx",
}


def test_a_task_that_cannot_be_told_of_fails_alone(
    redis_server: RedisServer, manager: TaskManager, start_worker: StartWorker
) -> None:
    worker = start_worker(concurrency=10)
    other = manager.create("slow", {"seconds": 2})
    bad = {how: manager.create("bad", {"how": how}) for how in BAD}
    for how, task_id in bad.items():
        state = manager.wait(task_id, 10)
        assert state.status == "failed", (how, state)
        assert BAD[how] in state.fields["error"], (how, state)
        assert len(state.fields["error"]) < 4000
    assert manager.wait(other, 10).status == "completed"
    assert worker.child.poll() is None
    eventually(lambda: left_in_redis(redis_server) == {})


@pytest.mark.parametrize("what", ["nested", "NaN", "no JSON"])
def test_a_job_that_cannot_be_read_fails_once(
    what: str, redis_server: RedisServer, manager: TaskManager, start_worker: StartWorker
) -> None:
    bodies = {
        "nested": '{"kind":"slow","info":{},"params":{"a":%s}}' % ("[" * 3000 + "]" * 3000),
        "NaN": '{"kind":"slow","params":{},"info":{"eta":NaN}}',
        "no JSON": "{",
    }
    task_id = manager.create("slow", {"seconds": 0.1})
    with redis_server.client() as admin:
        (key,) = (key for key in admin.scan_iter("*") if admin.type(key) == b"hash" and admin.hexists(key, "job"))
        admin.hset(key, "job", bodies[what])
    worker = start_worker()
    state = manager.wait(task_id, 10)
    assert (state.status, "JSON" in state.fields["error"]) == ("failed", True)
    assert manager.wait(manager.create("slow", {"seconds": 0.1}), 10).status == "completed"
    assert worker.child.poll() is None


@pytest.mark.parametrize("is_drained", [False, True])
def test_a_task_that_redis_has_lost_does_not_seem_to_wait(
    is_drained: bool, redis_server: RedisServer, manager: TaskManager, start_worker: StartWorker
) -> None:
    worker = start_worker(grace=0.3)
    task_id = manager.create("asleep" if is_drained else "fails_later", {"seconds": 30 if is_drained else 1})
    state_when(manager, task_id, lambda state: state.status == "in_progress")
    with redis_server.client() as admin:
        admin.flushall()
    if is_drained:
        worker.child.terminate()
    state = state_when(manager, task_id, lambda state: state.status == "failed")
    assert "create it again" in state.fields["error"]


def test_a_thousand_at_once_keep_their_claims(manager: TaskManager, start_worker: StartWorker) -> None:
    start_worker(concurrency=1100, lease=2)
    tasks = [manager.create("asleep", {"seconds": 4}) for _ in range(1100)]
    for task_id in tasks:
        state = manager.wait(task_id, 30)
        assert (state.status, state.fields["attempt"]) == ("completed", 1)
