"""Celery: every task of an app as a task of the relay.

from relay_client.integrations.celery import install

install(app)

Call it where the app is made, so that web processes and workers alike report: the ones that tasks wait, the others what becomes
of them.
"""

from typing import Unpack

from relay_client.integrations.missing import missing

try:
    from celery import Celery
except ModuleNotFoundError as error:
    raise missing("Celery 5.4 or newer", "celery") from error

from relay_client.integrations.celery.hooks import CeleryHooks
from relay_client.integrations.job import JobOptions
from relay_client.integrations.job_reporter import JobReporter


def install(app: Celery, **options: Unpack[JobOptions]) -> JobReporter:
    """Have the tasks of an app reported.

    Args:
        app: The app.
        options: See `relay_client.integrations.job.JobOptions`.

    Returns:
        What reports on them.

    Raises:
        ValueError: An option, or the environment, cannot be right.
        RuntimeError: It is installed in this app already.
    """
    hooks = CeleryHooks(app, JobReporter(options))
    hooks.connect()
    return hooks.jobs
