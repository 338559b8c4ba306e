"""An application on Celery."""

import os
from typing import Any

from celery import Celery, Task, chain, chord, group
from relay_client.integrations.celery import install

from tests.integration.client.integrations.apps import work

broker = os.environ["BROKER_URL"]
app = Celery("story", broker=broker, backend=broker if broker.startswith("redis") else os.environ["REDIS_URL"])
app.conf.update(worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)

install(
    app, title=lambda arguments: f"Story {arguments['token']}", owner=lambda arguments: f"user:{arguments['token']}"
)


@app.task(bind=True, max_retries=3)
def story(self: Task, kind: str, token: str, secret: str) -> None:
    try:
        work.do(kind, token)
    except ConnectionError as error:
        raise self.retry(exc=error, countdown=1) from error


@app.task(time_limit=1)
def limited(kind: str, token: str, secret: str) -> None:
    work.do(kind, token)


@app.task
def meta(kind: str, token: str, secret: str) -> None:
    meta.update_state(state="PROGRESS", meta={"current": 3, "total": 4, "description": "Third"})
    work.do("work", token)


@app.task(ignore_result=False)
def part(token: str) -> None:
    pass


def canvas(kind: str, token: str) -> str:
    """Enqueue several tasks; the ids of all of them."""
    parts = [part.si(token=token) for _ in range(2)]
    if kind == "chain":
        last = chain(*parts).apply_async()
        return f"{last.parent.id},{last.id}"
    if kind == "group":
        members = group(parts).apply_async()
        return ",".join([members.id, *(each.id for each in members)])
    body = chord(parts, part.si(token=token)).apply_async()
    return ",".join([body.parent.id, *(each.id for each in body.parent), body.id])


def enqueue(kind: str, token: str) -> str:
    if kind in ("chain", "group", "chord"):
        return canvas(kind, token)
    task: Any = {"limited": limited, "meta": meta}.get(kind, story)
    result: Any = task.delay(kind, token, secret=work.SECRET)
    return str(result.id)


def stop(job_id: str) -> str:
    app.control.revoke(job_id, terminate=True)
    return job_id
