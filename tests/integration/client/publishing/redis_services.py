"""Redis services in tests: run on an event loop of their own, and listening for the time of a block."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from relay_client.redis_service import RedisService


async def until(check: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not check():  # noqa: ASYNC110 - other processes set no events
            await asyncio.sleep(0.01)


@asynccontextmanager
async def listening(service: RedisService) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(service.start_listening())
        await until(lambda: service.alive)
        yield
        task.cancel()
    await service.close()


def run(main: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(main())  # type: ignore[arg-type]
