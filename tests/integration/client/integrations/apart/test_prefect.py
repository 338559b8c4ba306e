"""Prefect, whose flows run in the process that calls them."""

from tests.integration.client.integrations.queues import Queue, Running
from tests.integration.client.integrations.story import Story


class TestPrefect(Story):
    queue = Queue("prefect_app", None, row="Prefect")


class TestParts:
    """Another process: the story ends with the end of its own."""

    queue = TestPrefect.queue

    def test_a_tasks_run_is_a_part_of_its_flows(self, running: Running) -> None:
        flow, part = running.enqueue_several("parts")
        part.waits_for(status="completed", attempt=2)
        assert part.meta()["parent"] == flow.id
        # The flow's own task is the current one again.
        flow.waits_for(status="in_progress", progress=40)
        flow.open_gate()
        flow.waits_for(status="completed")
