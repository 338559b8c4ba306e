"""An application on Celery."""

import os
from typing import Any

from celery import Celery, Task
from relay_client.integrations.celery import install

from tests.integration.client.integrations.apps import work

app = Celery("story", broker=os.environ["BROKER_URL"], backend=os.environ["BROKER_URL"])
app.conf.update(worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)

install(
    app, title=lambda arguments: f"Story {arguments['token']}", owner=lambda arguments: f"user:{arguments['token']}"
)


@app.task(bind=True, max_retries=3)
def story(self: Task, kind: str, token: str, secret: str) -> None:
    try:
        work.do(kind, token)
    except ConnectionError as error:
        raise self.retry(exc=error, countdown=0.2) from error


@app.task(time_limit=1)
def limited(kind: str, token: str, secret: str) -> None:
    work.do(kind, token)


@app.task
def meta(kind: str, token: str, secret: str) -> None:
    meta.update_state(state="PROGRESS", meta={"current": 3, "total": 4, "description": "Third"})
    work.do("work", token)


def enqueue(kind: str, token: str) -> str:
    task: Any = {"limited": limited, "meta": meta}.get(kind, story)
    result: Any = task.delay(kind, token, secret=work.SECRET)
    return str(result.id)


def stop(job_id: str) -> str:
    app.control.revoke(job_id, terminate=True)
    return job_id
