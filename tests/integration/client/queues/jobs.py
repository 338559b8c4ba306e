"""Jobs as teams have them, for a real Celery worker and a real RQ worker: each reports on a task.

BROKER_URL is the queue's Redis, REDIS_URL that of the relays. A job waits where a test wants it to.
"""

import os
from typing import Any

from celery import Celery
from redis import Redis
from relay_client import TaskReporter

BROKER_URL = os.environ["BROKER_URL"]

#: Seconds after which a job that nobody lets go on fails.
PATIENCE = 150

app = Celery("jobs", broker=BROKER_URL, backend=BROKER_URL)
app.conf.broker_connection_retry_on_startup = True

#: One for the process, and for those that a worker forks from it.
reporter = TaskReporter()


def wait_to_go_on(task_id: str) -> None:
    with Redis.from_url(BROKER_URL) as broker:
        if broker.blpop([f"go on:{task_id}"], timeout=PATIENCE) is None:
            raise TimeoutError


def note(task_id: str, what: str) -> None:
    with Redis.from_url(BROKER_URL) as broker:
        broker.rpush(f"noted:{task_id}", what)


def draw(task_id: str) -> str:
    """Draw a picture, in ten steps; the first one waits."""
    with reporter(task_id, title="A picture") as task:
        for step in task.track(range(10), message="Drawing"):
            if step == 1:
                wait_to_go_on(task_id)
        task.progress(message="drawn")
        note(task_id, "drawn")
    return "done"


@app.task  # type: ignore[untyped-decorator] # Celery has no types
def draw_in_celery(task_id: str) -> str:
    return draw(task_id)


class PaintError(Exception):
    """The paint has run out."""


@app.task(bind=True, max_retries=2)  # type: ignore[untyped-decorator] # as above
def succeed_at_last(self: Any) -> str:
    """Fail twice, and succeed. The second try waits when it is half done."""
    attempt = self.request.retries + 1
    try:
        with reporter(self.request.id, title="A picture") as task:
            task.progress(10 * attempt, f"half of run {attempt}")
            if attempt == 2:
                wait_to_go_on(self.request.id)
            if attempt < 3:
                raise PaintError(f"no paint in run {attempt}")
    except PaintError as error:
        raise self.retry(exc=error, countdown=0) from error
    return "done"
