"""Dramatiq."""

from tests.integration.client.integrations.queues import Queue
from tests.integration.client.integrations.story import Story


class TestDramatiq(Story):
    queue = Queue(
        "dramatiq_app",
        lambda module: ["dramatiq", module, "--processes=1", "--threads=2"],
        row="Dramatiq",
    )
