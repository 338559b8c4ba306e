"""Celery and Dramatiq on RabbitMQ."""

from tests.integration.client.integrations.brokers import rabbitmq
from tests.integration.client.integrations.queues import Queue
from tests.integration.client.integrations.story import Story


class TestCeleryOnRabbitMQ(Story):
    queue = Queue(
        "celery_app",
        lambda module: ["celery", "-A", module, "worker", "--concurrency=2", "--loglevel=INFO", "--without-mingle"],
        row="Celery",
        broker=rabbitmq,
    )


class TestDramatiqOnRabbitMQ(Story):
    queue = Queue(
        "dramatiq_app",
        lambda module: ["dramatiq", module, "--processes=1", "--threads=2"],
        row="Dramatiq",
        broker=rabbitmq,
    )
