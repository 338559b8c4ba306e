"""An application on Celery in which nothing of the relay is installed."""

import os

from celery import Celery, Task

from tests.integration.client.integrations.apps import work

app = Celery("story", broker=os.environ["BROKER_URL"], backend=os.environ["BROKER_URL"])
app.conf.update(worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True, task_send_sent_event=True)


@app.task(bind=True, max_retries=3)
def story(self: Task, kind: str, token: str, secret: str) -> None:
    try:
        work.do(kind, token)
    except ConnectionError as error:
        raise self.retry(exc=error, countdown=1) from error


def enqueue(kind: str, token: str) -> str:
    return str(story.delay(kind, token, secret=work.SECRET).id)


def stop(job_id: str) -> str:
    app.control.revoke(job_id, terminate=True)
    return job_id
