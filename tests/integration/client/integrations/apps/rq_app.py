"""An application on RQ. It is the module of settings of its worker as well."""

import os

from redis import Redis
from relay_client.integrations.rq import install
from rq import Queue, Retry
from rq.command import send_stop_job_command
from rq.job import Job

from tests.integration.client.integrations.apps import options, work

install(title=options.title, owner=options.owner)

queue = Queue(connection=Redis.from_url(os.environ["BROKER_URL"]))


def story(kind: str, token: str, secret: str) -> None:
    work.do(kind, token)


def enqueue(kind: str, token: str) -> str:
    retry = Retry(max=3) if kind == "flaky" else None
    return queue.enqueue(story, kind, token, secret=work.SECRET, retry=retry).id


def stop(job_id: str) -> str:
    job = Job.fetch(job_id, connection=queue.connection)
    if job.is_queued:
        job.cancel()
    else:
        send_stop_job_command(queue.connection, job_id)
    return job_id
