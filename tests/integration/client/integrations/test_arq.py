"""arq."""

from tests.integration.client.integrations.queues import Queue
from tests.integration.client.integrations.story import Story


class TestArq(Story):
    queue = Queue(
        "arq_app",
        lambda module: ["arq", f"{module}.WorkerSettings"],
        row="arq",
    )
