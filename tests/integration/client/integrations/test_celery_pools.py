"""Celery with other pools than the one of processes: threads, greenlets, and none."""

from tests.integration.client.integrations.queues import Queue
from tests.integration.client.integrations.story import Story


def worker(pool: str) -> Queue:
    """A worker with another pool than the one of processes."""
    return Queue(
        "celery_app",
        lambda module: ["celery", "-A", module, "worker", f"--pool={pool}", "--concurrency=2", "--without-mingle"],
        row="Celery: threads, gevent, eventlet, solo",
    )


class TestThreads(Story):
    queue = worker("threads")


class TestGevent(Story):
    queue = worker("gevent")


class TestEventlet(Story):
    queue = worker("eventlet")


class TestSolo(Story):
    queue = worker("solo")
