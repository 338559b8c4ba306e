"""RQ, whose worker forks a process for each job."""

from tests.integration.client.integrations.queues import Queue
from tests.integration.client.integrations.story import Story


class TestWorker(Story):
    queue = Queue(
        "rq_app",
        lambda module: ["rq.cli", "worker", "-c", module, "--url", "BROKER_URL"],
        row="RQ",
    )
