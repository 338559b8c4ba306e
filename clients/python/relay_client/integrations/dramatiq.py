"""Dramatiq: every message as a task of the relay.

from relay_client.integrations.dramatiq import install

install(broker)

Call it where the broker is made, in the processes that send messages and in the workers alike.
"""

from typing import Any, Unpack

from relay_client.integrations.job import Job, JobOptions, named
from relay_client.integrations.job_reporter import JobReporter, never_raises
from relay_client.integrations.missing import missing
from relay_client.progress.outcome import TaskCancelled

try:
    import dramatiq
except ModuleNotFoundError as error:
    raise missing("Dramatiq 1.17 or newer", "dramatiq") from error

#: Option of messages whose tasks were announced by the process that sent them.
_ANNOUNCED = "relay_announced"


def install(broker: dramatiq.Broker, **options: Unpack[JobOptions]) -> JobReporter:
    """Have the messages of a broker reported.

    Args:
        broker: The broker; its other middleware stays as it is.
        options: See `relay_client.integrations.job.JobOptions`.

    Returns:
        What reports on them.

    Raises:
        ValueError: An option, or the environment, cannot be right.
    """
    middleware = RelayMiddleware(JobReporter(options))
    # The first in the list has the last look at a message's outcome: what the middleware for retries has decided.
    first = type(broker.middleware[0]) if broker.middleware else None
    broker.add_middleware(middleware, **({} if first is None else {"before": first}))
    for actor in broker.actors.values():
        middleware.after_declare_actor(broker, actor)
    return middleware.jobs


class RelayMiddleware(dramatiq.Middleware):
    """Reports on messages. It must be before the middleware for retries; `install` puts it there.

    Attributes:
        jobs: Reports on them.
    """

    def __init__(self, jobs: JobReporter) -> None:
        self.jobs = jobs
        self._begun: dict[int, Job] = {}  # by the message that a thread works on

    def after_declare_actor(self, broker: dramatiq.Broker, actor: Any) -> None:  # noqa: ARG002
        """Have a task that ended itself as cancelled not be tried again."""
        throws = actor.options.get("throws") or ()
        actor.options["throws"] = (*(throws if isinstance(throws, tuple) else (throws,)), TaskCancelled)

    def _job(self, broker: dramatiq.Broker, message: Any) -> Job:
        actor = broker.actors.get(message.actor_name)
        most = message.options.get("max_retries", actor.options.get("max_retries") if actor else None)
        return Job(
            message.message_id,
            message.actor_name,
            lambda: named(actor.fn if actor else None, message.args, message.kwargs),
            queue=message.queue_name.removesuffix(".DQ"),
            attempt=message.options.get("retries", 0) + 1,
            max_attempts=None if most is None else most + 1,
            is_announced=bool(message.options.get(_ANNOUNCED)),
        )

    @never_raises
    def before_enqueue(self, broker: dramatiq.Broker, message: Any, delay: int) -> None:  # noqa: ARG002
        """Note in a new message that it is announced."""
        if not message.options.get("retries") and self.jobs.mapping.is_selected(self._job(broker, message)):
            message.options[_ANNOUNCED] = True

    @never_raises
    def after_enqueue(self, broker: dramatiq.Broker, message: Any, delay: int) -> None:  # noqa: ARG002
        """Report that a message waits."""
        # One that was delayed is moved from its delay queue to its queue by the worker.
        is_moved = "eta" in message.options and not message.queue_name.endswith(".DQ")
        if not message.options.get("retries") and message.options.get(_ANNOUNCED) and not is_moved:
            self.jobs.enqueued(self._job(broker, message))

    def before_process_message(self, broker: dramatiq.Broker, message: Any) -> None:
        """Report that a message is worked on."""
        job = self._begun[id(message)] = self._job(broker, message)
        self.jobs.started(job)

    @never_raises
    def after_process_message(
        self,
        broker: dramatiq.Broker,  # noqa: ARG002
        message: Any,
        *,
        result: Any = None,  # noqa: ARG002
        exception: BaseException | None = None,
    ) -> None:
        """Report the outcome, which other middleware has decided."""
        self.jobs.leave()
        job = self._begun.pop(id(message), None)
        if job is None:
            return
        is_retried = exception is not None and not message.failed and message.options.get("retries", 0) >= job.attempt
        if not is_retried and not self.jobs.runs(job):
            return
        if isinstance(exception, TaskCancelled):
            self.jobs.cancelled(job.id)
        elif exception is None and not message.failed:
            self.jobs.succeeded(job.id)
        elif is_retried:
            self.jobs.retrying(job, exception)
        else:
            self.jobs.failed(job.id, exception or "Dramatiq has given the message up, for instance because of its age")

    @never_raises
    def after_skip_message(self, broker: dramatiq.Broker, message: Any) -> None:  # noqa: ARG002
        """Report that a message was skipped by other middleware."""
        self.jobs.leave()
        self._begun.pop(id(message), None)
        if self.jobs.is_running(message.message_id):
            self.jobs.cancelled(message.message_id, "skipped")

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: Any) -> None:  # noqa: ARG002
        """Send what is not sent yet."""
        self.jobs.flush()
