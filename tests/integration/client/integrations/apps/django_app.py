"""An application on Django: the process that enqueues."""

import os

import django
from django.core.management import call_command

from tests.integration.client.integrations.apps import work

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.integration.client.integrations.apps.django_settings"
django.setup()
call_command("migrate", verbosity=0)

from tests.integration.client.integrations.apps.django_tasks import story  # noqa: E402 - it needs the set-up


def enqueue(kind: str, token: str) -> str:
    return str(story.enqueue(kind=kind, token=token, secret=work.SECRET).id)
