"""`relay celery-events`: what an app's events tell, in which nothing is installed."""

import signal
import sys
from collections.abc import Iterator

import pytest
import redis

from relay.processes import start_child
from tests.harness import eventually
from tests.integration.client.integrations.queues import SECRET, Queue, Running


class TestCeleryEvents:
    queue = Queue(
        "bare_celery_app",
        lambda module: ["celery", "-A", module, "worker", "-E", "--concurrency=2", "--without-mingle"],
        row="Celery",
    )

    @pytest.fixture(autouse=True)
    def command(self, running: Running) -> Iterator[None]:
        """The command, which is there before the app."""
        arguments = ["celery-events", "--broker", running.environ["BROKER_URL"]]
        with running.log.open("ab") as log:
            command = start_child(
                [sys.executable, "-m", "relay.cli", *arguments], env=running.environ, stdout=log, stderr=log
            )
        try:
            yield
        finally:
            command.send_signal(signal.SIGINT)
            assert command.wait(60) == 130

    def test_the_life_of_tasks(self, running: Running) -> None:
        with redis.Redis.from_url(running.environ["BROKER_URL"]) as broker:
            eventually(broker.pubsub_numpat)  # the command listens
        job = running.enqueue("work")
        job.waits_for(status="pending")
        running.start_worker()
        state = job.waits_for(status="in_progress", title="story")
        assert state["worker"].startswith("celery@")
        job.open_gate()
        job.waits_for(status="completed")

        assert running.enqueue("fail").waits_for(status="failed")["error"] == "ValueError('broken')"
        running.enqueue("flaky").waits_for(status="completed", attempt=2)

        job = running.enqueue("work")
        job.waits_for(status="in_progress")
        running.stop(job)
        job.waits_for(status="cancelled")

        job = running.enqueue("work")
        job.waits_for(status="in_progress")
        job.kill_process()
        assert "WorkerLostError" in job.waits_for(status="failed")["error"]

        job = running.enqueue("work")
        job.waits_for(status="in_progress")
        job.request_cancel()
        job.waits_for(status="cancelled")

        with running.redis.client() as client:
            assert not [name for name in client.keys("*") if SECRET.encode() in (client.dump(name) or b"")]
