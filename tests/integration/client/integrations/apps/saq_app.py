"""An application on SAQ."""

import asyncio
import os
from typing import Any

from relay_client.integrations.saq import install
from saq import Queue

from tests.integration.client.integrations.apps import options, work

queue = Queue.from_url(os.environ["BROKER_URL"])

loop = asyncio.new_event_loop()


async def story(ctx: Any, *, kind: str, token: str, secret: str) -> None:
    await work.do_async(kind, token)


settings = {"queue": queue, "functions": [story], "timers": {"abort": 0.1}, "shutdown_grace_period_s": 1}
install(queue, settings, title=options.title, owner=options.owner)


def enqueue(kind: str, token: str) -> str:
    retries = 3 if kind == "flaky" else 1
    job = loop.run_until_complete(
        queue.enqueue("story", kind=kind, token=token, secret=work.SECRET, retries=retries, timeout=0)
    )
    assert job is not None
    return job.key


async def _stop(key: str) -> None:
    job = await queue.job(key)
    assert job is not None
    await job.abort("no longer needed")


def stop(key: str) -> str:
    loop.run_until_complete(_stop(key))
    return key
