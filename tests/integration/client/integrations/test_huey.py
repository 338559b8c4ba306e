"""Huey."""

import signal

from tests.integration.client.integrations.queues import Queue
from tests.integration.client.integrations.story import Story


class TestHuey(Story):
    queue = Queue(
        "huey_app",
        lambda module: ["huey.bin.huey_consumer", f"{module}.huey", "--workers=2"],
        end=signal.SIGINT,
        row="Huey",
    )
