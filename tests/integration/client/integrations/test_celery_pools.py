"""Celery with other pools than the one of processes: threads, greenlets, and none; and how the one of processes is watched."""

from types import SimpleNamespace
from typing import Any

from kombu.asynchronous import Hub
from relay_client.integrations.celery.hooks import look_for_dead_children

from tests.harness import PATIENCE, eventually
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


class Pool:
    """What a worker has of its pool."""

    def __init__(self) -> None:
        self.looks = 0

    def maintain_pool(self) -> None:
        self.looks += 1


def test_a_worker_looks_often_for_children_that_have_died() -> None:
    """Each of 14 that were killed one after the other is reported within half a second then, and not after up to 5 s."""
    hub: Any = Hub()  # type: ignore[no-untyped-call]
    pool = Pool()
    try:
        look_for_dead_children(SimpleNamespace(hub=hub, pool=pool))
        for others in (SimpleNamespace(hub=None, pool=pool), SimpleNamespace(hub=hub, pool=object())):
            look_for_dead_children(others)
        eventually(lambda: hub.fire_timers() is not None and pool.looks >= 3, within=PATIENCE)
        assert len(hub.timer.queue) == 1
    finally:
        hub.close()
