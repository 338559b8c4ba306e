"""Celery."""

from tests.integration.client.integrations.queues import Queue, Running
from tests.integration.client.integrations.story import Story


class TestPrefork(Story):
    queue = Queue(
        "celery_app",
        lambda module: ["celery", "-A", module, "worker", "--concurrency=2", "--loglevel=INFO", "--without-mingle"],
        can=frozenset({"enqueued", "retry", "lost", "stopped"}),
    )

    def test_the_hard_time_limit(self, running: Running) -> None:
        running.start_worker()
        state = running.enqueue("limited").waits_for(status="failed")
        assert state["error"] == "TimeLimitExceeded: 1 s"

    def test_update_state(self, running: Running) -> None:
        running.start_worker()
        job = running.enqueue("meta")
        job.waits_for(progress=40)
        seen = {name: value for update in job.updates() for name, value in update.items() if value != 40}
        assert (seen["done"], seen["total"]) == (3, 4)
        job.open_gate()
        job.waits_for(status="completed")
