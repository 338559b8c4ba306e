"""Libraries that have no object to install an integration in: it is installed in their classes, once for the process."""

from collections.abc import Callable
from functools import wraps
from typing import Protocol, Unpack

from relay_client.integrations.job import JobOptions
from relay_client.integrations.job_reporter import JobReporter


class Install(Protocol):
    """The function ``install`` of such a library."""

    def __call__(self, **options: Unpack[JobOptions]) -> JobReporter:
        """Have the jobs of this process reported; called again, return what reports on them already.

        Args:
            options: See `relay_client.integrations.job.JobOptions`.

        Raises:
            ValueError: An option, or the environment, cannot be right.
        """


def installed_once(patch: Callable[[JobReporter], None]) -> Install:
    """Decorate a function that has the classes of a library report: it becomes the library's `Install`."""
    installed: list[JobReporter] = []

    @wraps(patch)
    def install(**options: Unpack[JobOptions]) -> JobReporter:
        if not installed:
            jobs = JobReporter(options)
            patch(jobs)
            installed.append(jobs)
        return installed[0]

    # Else inspect shows the signature of what it wraps.
    del install.__wrapped__
    return install
