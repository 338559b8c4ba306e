"""An application on arq."""

import asyncio
import os
from contextlib import suppress
from typing import Any

from arq import Retry, create_pool
from arq.connections import RedisSettings
from arq.jobs import Job
from relay_client.integrations.arq import install

from tests.integration.client.integrations.apps import options, work

install(title=options.title, owner=options.owner)

SETTINGS = RedisSettings.from_dsn(os.environ["BROKER_URL"])

loop = asyncio.new_event_loop()


async def story(ctx: dict[Any, Any], kind: str, token: str, secret: str) -> None:
    try:
        await work.do_async(kind, token)
    except ConnectionError as error:
        raise Retry(0.1) from error


class WorkerSettings:
    functions = (story,)
    redis_settings = SETTINGS
    allow_abort_jobs = True
    poll_delay = 0.05
    job_completion_wait = 1


async def _enqueue(kind: str, token: str) -> str:
    async with await create_pool(SETTINGS) as pool:
        job = await pool.enqueue_job("story", kind=kind, token=token, secret=work.SECRET)
        assert job is not None
        return job.job_id


def enqueue(kind: str, token: str) -> str:
    return loop.run_until_complete(_enqueue(kind, token))


async def _stop(job_id: str) -> None:
    async with await create_pool(SETTINGS) as pool:
        with suppress(TimeoutError):
            await Job(job_id, pool).abort(timeout=0)


def stop(job_id: str) -> str:
    loop.run_until_complete(_stop(job_id))
    return job_id
