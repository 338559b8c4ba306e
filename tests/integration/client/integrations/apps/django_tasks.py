"""The tasks of the application on Django."""

from importlib import import_module
from importlib.util import find_spec

from relay_client.integrations.django import task_progress

from tests.integration.client.integrations.apps import work

#: Of the package where it is installed, else Django's own.
tasks = import_module("django_tasks" if find_spec("django_tasks") else "django.tasks")


@tasks.task()
def story(kind: str, token: str, secret: str) -> None:
    task_progress(1, "Begun")
    work.do(kind, token)
