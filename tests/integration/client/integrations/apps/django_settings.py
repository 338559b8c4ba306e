"""The settings of the application on Django."""

import os
from importlib.util import find_spec

from tests.integration.client.integrations.apps import options

SECRET_KEY = "only for tests"
USE_TZ = True
#: Django 6.0 and newer has tasks of its own.
INSTALLED_APPS = ["django_tasks_db", "relay_client.integrations.django"]
if find_spec("django_tasks") is not None:
    INSTALLED_APPS.append("django_tasks")
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["BROKER_FILE"]}}
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
RELAY_TASKS = {"title": options.title, "owner": options.owner}
LOGGING = {
    "version": 1,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
}
