"""The tasks of the application on Django."""

from django_tasks import task
from relay_client.integrations.django import task_progress

from tests.integration.client.integrations.apps import work


@task()
def story(kind: str, token: str, secret: str) -> None:
    task_progress(1, "Begun")
    work.do(kind, token)
