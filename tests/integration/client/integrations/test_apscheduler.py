"""APScheduler."""

from tests.integration.client.integrations.queues import Queue
from tests.integration.client.integrations.story import Story


class TestScheduler(Story):
    queue = Queue(
        "apscheduler_app",
        None,
        row="APScheduler",
    )
