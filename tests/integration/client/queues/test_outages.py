"""Redis is away in the middle of a job: the job completes, and its end is reported when Redis is back.

``OUTAGE_SECONDS`` says for how long; the suite takes a few, `make test-outages` a minute.
"""

import os
import time
from pathlib import Path

import msgspec
from celery import Celery
from rq import Queue

from tests.conftest import StartRelay
from tests.harness import PATIENCE, Client, RedisServer, RelayServer, eventually
from tests.integration.client.queues.workers import JOBS, celery_worker, rq_worker

OUTAGE = float(os.environ.get("OUTAGE_SECONDS", "3"))

TASKS = ("in celery", "in rq")


def state_of(relay: RelayServer, task_id: str) -> dict[str, object]:
    return dict(msgspec.json.decode(relay.get(f"/api/tasks/{task_id.replace(' ', '%20')}")[1])["data"])


def read_until(client: Client, field: str, value: object) -> None:
    """Read until both tasks have had a value of a field."""
    left = set(TASKS)
    while left:
        message = client.receive(PATIENCE + OUTAGE)
        if message["type"] == "task_update" and message["data"].get(field) == value:
            left.discard(message["task_id"])


def test_jobs_complete_while_redis_is_away(
    broker: RedisServer, lasting_server: RedisServer, start_relay: StartRelay, tmp_path: Path
) -> None:
    relay = start_relay(redis_url=lasting_server.url)
    directories = [tmp_path / name for name in TASKS]
    for directory in directories:
        directory.mkdir()
    with (
        celery_worker(directories[0], broker, lasting_server),
        rq_worker(directories[1], broker, lasting_server),
        broker.client() as queue,
        relay.client(*TASKS) as client,
    ):
        celery = Celery(broker=broker.url, backend=broker.url)
        in_celery = celery.send_task(f"{JOBS}.draw_in_celery", [TASKS[0]])
        in_rq = Queue(connection=queue).enqueue(f"{JOBS}.draw", TASKS[1], job_timeout=600)
        read_until(client, "done", 1)
        lasting_server.kill()
        went_away = time.monotonic()
        for task_id in TASKS:
            queue.rpush(f"go on:{task_id}", 1)
            assert queue.blpop([f"noted:{task_id}"], timeout=PATIENCE) is not None
        time.sleep(max(0.0, went_away + OUTAGE - time.monotonic()))  # the work is done, and its end not told
        lasting_server.start()
        read_until(client, "status", "completed")
        for task_id in TASKS:
            state = state_of(relay, task_id)
            assert (state["progress"], state["done"], state["message"]) == (100, 10, "drawn")
            assert "error" not in state
        assert in_celery.get(timeout=PATIENCE) == "done"
        assert eventually(in_rq.return_value) == "done"
        celery.close()
