"""An application on Procrastinate."""

import os
import sys

from procrastinate import App, PsycopgConnector, RetryStrategy, SyncPsycopgConnector
from relay_client.integrations.procrastinate import install

from tests.integration.client.integrations.apps import options, work

is_producer = sys.argv[0].endswith("produce.py")
url = os.environ["BROKER_URL"]
app = App(connector=SyncPsycopgConnector(conninfo=url) if is_producer else PsycopgConnector(conninfo=url))
install(title=options.title, owner=options.owner)


@app.task
async def story(kind: str, token: str, secret: str) -> None:
    await work.do_async(kind, token)


@app.task(retry=RetryStrategy(max_attempts=2, wait=1))
def flaky_story(kind: str, token: str, secret: str) -> None:
    work.do(kind, token)


if is_producer:
    app.open()
    app.schema_manager.apply_schema()


def enqueue(kind: str, token: str) -> str:
    # Both kinds of functions: those of asyncio can be stopped at any time.
    task = flaky_story if kind == "flaky" else story
    return f"procrastinate-{task.defer(kind=kind, token=token, secret=work.SECRET)}"


def stop(task_id: str) -> str:
    app.job_manager.cancel_job_by_id(int(task_id.rpartition("-")[2]), abort=True)
    return task_id
