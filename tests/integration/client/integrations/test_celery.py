"""Celery."""

from tests.integration.client.integrations.queues import Queue, Running
from tests.integration.client.integrations.story import Story


class TestPrefork(Story):
    queue = Queue(
        "celery_app",
        lambda module: ["celery", "-A", module, "worker", "--concurrency=2", "--loglevel=INFO", "--without-mingle"],
        row="Celery",
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

    def test_parts_of_chains_groups_and_chords_have_a_parent(self, running: Running) -> None:
        running.start_worker()
        first, second = running.enqueue_several("chain")
        second.waits_for(status="completed")
        assert (first.meta().get("parent"), second.meta()["parent"]) == (None, first.id)

        group, *members = running.enqueue_several("group")
        for member in members:
            member.waits_for(status="completed")
            assert member.meta()["parent"] == group.id

        group, *members, body = running.enqueue_several("chord")
        body.waits_for(status="completed")
        assert {member.meta()["parent"] for member in members} == {group.id}
        assert body.meta().get("parent") in (None, *(member.id for member in members))
