"""Servers for subscribers: real ones that tests share, and ones that a test scripts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import trio
from relay_client.subscriber import (
    Limits,
    Update,
)

from relay.broker.opening import open_redis
from relay.broker.service import RedisBroker
from relay.config import RedisSettings, Settings
from tests.harness import PATIENCE, RedisServer, RelayServer
from tests.integration.client.subscriber.bridge import Updates

QUICK = Limits(connect_timeout=5, heartbeat=5, heartbeat_timeout=5, retry_base=0.1, retry_cap=0.3)


@contextmanager
def within_patience() -> Any:
    with trio.fail_after(PATIENCE):
        yield


@asynccontextmanager
async def publishing(redis_server: RedisServer) -> AsyncIterator[RedisBroker]:
    """Durable publishing, straight to Redis: no relay needs to be there."""
    settings = Settings(_env_file=None, redis_timeout=PATIENCE)  # type: ignore[call-arg]
    async with open_redis(redis_server.url, settings, RedisSettings(_env_file=None)) as redis:  # type: ignore[call-arg]
        yield redis


Shared = tuple[RedisServer, RelayServer]


async def take(updates: Updates, count: int) -> list[Update]:
    with trio.fail_after(PATIENCE):
        return [await anext(updates) for _ in range(count)]
