"""Procrastinate, on PostgreSQL."""

from tests.integration.client.integrations.brokers import postgresql
from tests.integration.client.integrations.queues import Queue
from tests.integration.client.integrations.story import Story


class TestProcrastinate(Story):
    queue = Queue(
        "procrastinate_app",
        lambda module: ["procrastinate", "--app", f"{module}.app", "worker", "--shutdown-graceful-timeout=5"],
        row="Procrastinate",
        broker=postgresql,
    )
