"""Django's tasks, with the worker of django-tasks-db."""

from tests.integration.client.integrations.queues import APPS, Queue
from tests.integration.client.integrations.story import Story


class TestDatabaseWorker(Story):
    queue = Queue(
        "django_app",
        lambda module: [
            "django",
            "db_worker",
            "--settings",
            f"{APPS}.django_settings",
            "--interval=0.05",
            "--no-startup-delay",
        ],
        row="Django tasks",
    )
