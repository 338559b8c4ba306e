"""taskiq."""

from tests.integration.client.integrations.queues import Queue
from tests.integration.client.integrations.story import Story


class TestTaskiq(Story):
    queue = Queue(
        "taskiq_app",
        lambda module: ["taskiq", "worker", f"{module}:broker", "--workers=1"],
        row="taskiq",
        retries_at_once=True,
    )
