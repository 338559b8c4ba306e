"""The contract of all integrations, as one story that each of them lives through with its real worker and broker.

What a library cannot tell stands in the table of docs/integrations.md, which says which steps a queue is tested for.
"""

import os
import time
from typing import ClassVar

import pytest

from tests.integration.client.integrations.queues import SECRET, Queue, Running
from tests.integration.client.reading import log_of

#: For how many seconds Redis is away: none in the suite, which only needs it to be away when a task ends.
OUTAGE = float(os.environ.get("OUTAGE_SECONDS", "0"))


class Story:
    """The tests of one queue; they run in this order, on one worker."""

    queue: ClassVar[Queue]

    @pytest.fixture(autouse=True)
    def _only_what_the_row_says(self, request: pytest.FixtureRequest) -> None:
        marker = request.node.get_closest_marker("step")
        if marker is not None and marker.args[0] not in self.queue.can:
            pytest.skip(f"the library does not tell: {marker.args[0]}")

    def test_waiting_running_and_completed(self, running: Running) -> None:
        if "waits" not in self.queue.can:
            running.start_worker()
        job = running.enqueue("work")
        if "waits" in self.queue.can:
            state = job.waits_for(status="pending")
            assert "created_at" in state
            running.start_worker()
        state = job.waits_for(status="in_progress", progress=40, message="Rendering", stage="image")
        assert state["title"] == f"Story {job.token}"
        assert state["worker"]
        assert state["kind"].endswith("story")
        assert job.meta()["owner"] == f'["user:{job.token}"]'
        job.open_gate()
        state = job.waits_for(status="completed", progress=100, message="Rendered")
        assert "completed_at" in state

    def test_failed(self, running: Running) -> None:
        running.start_worker()
        state = running.enqueue("fail").waits_for(status="failed")
        assert state["error"] == "ValueError: broken"

    @pytest.mark.step("retry")
    def test_a_retry_waits_and_is_another_attempt(self, running: Running) -> None:
        running.start_worker()
        job = running.enqueue("flaky")
        job.waits_for(status="completed", attempt=2)
        waits = [update for update in job.updates() if update.get("status") == "pending"]
        assert len(waits) == 1 or (self.queue.retries_at_once and not waits)
        assert all(update["message"].startswith("Attempt 1") and "try again" in update["message"] for update in waits)

    @pytest.mark.step("killed process")
    def test_a_killed_process_fails_its_task(self, running: Running) -> None:
        running.start_worker()
        job = running.enqueue("work")
        job.waits_for(progress=40)
        job.kill_process()
        state = job.waits_for(status="failed")
        assert state["error"]

    @pytest.mark.step("stopped")
    def test_a_task_that_is_stopped_is_cancelled(self, running: Running) -> None:
        running.start_worker()
        job = running.enqueue("work")
        job.waits_for(progress=40)
        running.stop(job)
        job.waits_for(status="cancelled")

    @pytest.mark.step("stopped while it waits")
    def test_a_task_that_is_stopped_before_it_begins_is_cancelled(self, running: Running) -> None:
        running.end_worker()
        job = running.enqueue("work")
        running.stop(job)
        running.start_worker()
        job.waits_for(status="cancelled")

    @pytest.mark.step("a watcher's cancel")
    def test_a_watcher_cancels_a_task_that_runs(self, running: Running) -> None:
        running.start_worker()
        job = running.enqueue("cancellable")
        assert job.waits_for(progress=50)["cancellable"] is True
        job.request_cancel()
        job.waits_for(status="cancelled")

    def test_redis_away_while_a_task_runs(self, running: Running) -> None:
        running.start_worker()
        job = running.enqueue("work")
        job.waits_for(progress=40)
        running.redis.freeze()
        try:
            job.open_gate()
            job.marked("done")  # the worker went on
            time.sleep(OUTAGE)
        finally:
            running.redis.thaw()
        job.waits_for(status="completed", message="Rendered")

    def test_redis_away_when_a_task_begins(self, running: Running) -> None:
        running.start_worker()
        running.redis.freeze()
        try:
            job = running.enqueue("work")
            job.open_gate()
            job.marked("done")
        finally:
            running.redis.thaw()
        job.waits_for(status="completed", title=f"Story {job.token}")

    def test_a_task_that_was_enqueued_last_is_reported_when_its_worker_ends(self, running: Running) -> None:
        running.start_worker()
        job = running.enqueue("work")
        job.waits_for(progress=40)
        job.open_gate()
        job.marked("done")
        running.end_worker()
        job.waits_for(status="completed")

    def test_every_task_is_announced_once(self, running: Running) -> None:
        announced = [data["task_info"]["task_id"] for _, _, data in log_of(running.redis, "general")]
        assert len(announced) == len(set(announced))
        assert set(announced) >= {job.id for job in running.jobs}

    def test_arguments_are_not_published(self, running: Running) -> None:
        with running.redis.client() as client:
            for name in client.keys("*"):
                assert SECRET.encode() not in (client.dump(name) or b"")
