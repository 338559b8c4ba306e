"""SAQ."""

from tests.integration.client.integrations.queues import Queue
from tests.integration.client.integrations.story import Story


class TestSaq(Story):
    queue = Queue(
        "saq_app",
        lambda module: ["saq", f"{module}.settings"],
        row="SAQ",
    )
