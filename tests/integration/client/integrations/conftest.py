"""The processes of one queue, for all tests of its story."""

from collections.abc import Iterator

import pytest

from tests.harness import RedisServer
from tests.integration.client.integrations.queues import Queue, Running


@pytest.fixture(scope="class")
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The queue of the test's class: `queue`."""
    directory = tmp_path_factory.mktemp("queue")
    for name in ("redis", "broker"):
        (directory / name).mkdir()
    queue: Queue = request.cls.queue
    with RedisServer(directory / "redis", "--save", "") as redis, queue.broker(directory / "broker") as broker_url:
        running = Running(queue, directory, redis, broker_url)
        try:
            yield running
        finally:
            running.close()
