"""The settings of the application on Django."""

import os

from tests.integration.client.integrations.apps import options

SECRET_KEY = "only for tests"
USE_TZ = True
INSTALLED_APPS = ["django_tasks", "django_tasks_db", "relay_client.integrations.django"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["BROKER_FILE"]}}
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
RELAY_TASKS = {"title": options.title, "owner": options.owner}
LOGGING = {
    "version": 1,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
}
