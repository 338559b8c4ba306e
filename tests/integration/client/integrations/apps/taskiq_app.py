"""An application on taskiq."""

import asyncio
import os

from relay_client.integrations.taskiq import install
from taskiq import SimpleRetryMiddleware
from taskiq_redis import ListQueueBroker

from tests.integration.client.integrations.apps import options, work

broker = ListQueueBroker(os.environ["BROKER_URL"]).with_middlewares(SimpleRetryMiddleware(default_retry_count=3))
install(broker, title=options.title, owner=options.owner)

loop = asyncio.new_event_loop()


@broker.task(task_name="taskiq.story")
async def story(kind: str, token: str, secret: str) -> None:
    await work.do_async(kind, token)


@broker.task(task_name="taskiq.blocking_story", retry_on_error=True)
def blocking_story(kind: str, token: str, secret: str) -> None:
    work.do(kind, token)


def enqueue(kind: str, token: str) -> str:
    task = blocking_story if kind in ("flaky", "blocking") else story
    return str(loop.run_until_complete(task.kiq(kind, token, secret=work.SECRET)).task_id)
