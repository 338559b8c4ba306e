"""The Django application: it connects the signals of tasks."""

from typing import Any

from relay_client.integrations.missing import missing

try:
    from django.apps import AppConfig
    from django.conf import settings
except ModuleNotFoundError as error:
    raise missing("Django", "django") from error

from relay_client.integrations.job_reporter import JobReporter


class RelayTasksConfig(AppConfig):
    """The application ``relay_client.integrations.django``."""

    name = "relay_client.integrations.django"
    label = "relay_tasks"

    def ready(self) -> None:
        """Connect the signals of Django's tasks, and of the package django-tasks where it is installed."""
        from relay_client.integrations.django import signals

        options: Any = getattr(settings, "RELAY_TASKS", {})
        signals.connect(JobReporter(options))
