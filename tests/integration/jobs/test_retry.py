"""An ended task is run again: by a manager, and over HTTP."""

import json
from pathlib import Path

import httpx
from relay_jobs import operations
from relay_jobs.manager import TaskManager
from relay_wire import keys, retries

from tests.conftest import StartRelay
from tests.harness import RedisServer, eventually
from tests.integration.jobs.rig import StartWorker, has_begun, left_in_redis, state_when, updates_until


def test_a_failed_one_is_run_again_over_http(
    redis_server: RedisServer, manager: TaskManager, start_relay: StartRelay, start_worker: StartWorker, tmp_path: Path
) -> None:
    relay = start_relay()
    worker = start_worker()
    api = f"http://127.0.0.1:{relay.port}/api/tasks"

    def retry(task_id: str) -> tuple[int, str]:
        answer = httpx.post(f"{api}/{task_id}/retry")
        body = answer.json()
        return answer.status_code, body.get("code") or body.get("outcome")

    assert retry("nobody") == (404, "unknown_task")
    secret = {"file": str(tmp_path / "tries"), "succeeds": 4}
    manager.create("flaky", secret, task_id="t", title="Flaky", fields={"size": 7})
    failed = manager.wait("t", 10)
    assert (failed.status, failed.fields[retries.FIELD]) == ("failed", True)
    eventually(lambda: left_in_redis(redis_server) == {})
    worker.kill()
    with relay.client("t") as client:
        client.receive()  # its state
        assert retry("t") == (202, "queued")
        former, again = updates_until(client, "t", lambda update: update.get("status") == "pending")
    assert (again["title"], again["size"], again["progress"]) == ("Flaky", 7, 0)
    assert (former["error"], former[retries.FIELD]) == (None, None), "what the last run has left is gone"
    assert retry("t") == (409, "not_failed")
    start_worker()
    assert manager.wait("t", 10).fields["tried"] == 4
    assert retry("t") == (409, "not_failed"), "it was a success"
    eventually(lambda: left_in_redis(redis_server) == {})
    # What is no job of a worker, and what was kept too long ago.
    redis_server.publish_task("plain", status="failed", error="e")
    eventually(lambda: retry("plain") == (409, "not_retryable"))
    redis_server.publish_task("old", status="failed", retryable=True)
    eventually(lambda: retry("old") == (409, "not_retryable"))


def test_a_cancelled_one_is_run_again_by_a_manager(
    redis_server: RedisServer, manager: TaskManager, start_worker: StartWorker
) -> None:
    start_worker()
    task_id = manager.create("slow", {"seconds": 30})
    assert not manager.retry(task_id), "it has not ended"
    for _ in range(2):  # the second time within the memory of idempotency keys
        state_when(manager, task_id, has_begun)
        assert manager.cancel(task_id)
        assert manager.wait(task_id, 10).status == "cancelled"
        eventually(lambda: manager.retry(task_id))
        assert not manager.retry(task_id), "it waits or runs already"
    state_when(manager, task_id, has_begun)
    manager.cancel(task_id)


def test_one_whose_retrier_died_is_announced_by_its_worker(
    redis_server: RedisServer, manager: TaskManager, start_worker: StartWorker
) -> None:
    worker = start_worker()
    manager.create("hopeless", task_id="t")
    assert manager.wait("t", 10).status == "failed"
    eventually(lambda: left_in_redis(redis_server) == {})
    worker.kill()
    step = operations.retried(manager.publisher.updates, "t")
    for _ in range(2):  # up to the script, and not to the update that it waits
        calls = next(step)
        assert isinstance(calls, list)
        manager.publisher.sender.deliver(calls)
    assert manager.get("t").status == "failed"  # type: ignore[union-attr]
    with redis_server.client() as client:
        assert client.hget(retries.task_key("t"), "again")
    start_worker()
    eventually(lambda: left_in_redis(redis_server) == {})
    with redis_server.client() as client:
        updates = [json.loads(fields[b"data"]) for _, fields in client.xrange(keys.log("task:t"))]
    assert [update["status"] for update in updates if "status" in update] == ["pending", "in_progress", "failed"]
