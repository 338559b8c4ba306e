"""Opens Redis for the time of a block: the one place that owns its connections.

open_redis
  trio-asyncio loop     redis-py lives here
  servers               connections for the relay itself
  client_servers        connections for what clients ask to be read
  publish_servers       connections for what clients publish over HTTP
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from relay_wire.redis_urls import parse
from relay_wire.trio_bridge import trio_asyncio

from relay.broker.client_calls import CONNECTIONS
from relay.broker.client_publishes import CONNECTIONS as PUBLISH_CONNECTIONS
from relay.broker.service import RedisBroker
from relay.broker.topology import open_servers
from relay.config import RedisSettings, Settings


@asynccontextmanager
async def open_redis(url: str, settings: Settings, redis_settings: RedisSettings) -> AsyncIterator[RedisBroker]:
    """Open Redis for the time of the block. Opening does not connect: a Redis that is away is no error here.

    Args:
        url: The URL, see `relay_wire.redis_urls`.
        settings: Time-outs, retention and bounds.
        redis_settings: The authorities to trust.

    Raises:
        ValueError: The URL is wrong.
    """
    more = {} if redis_settings.ssl_ca_certs is None else {"ssl_ca_certs": str(redis_settings.ssl_ca_certs)}
    target = parse(url)
    async with trio_asyncio.open_loop() as loop:
        servers = open_servers(target, settings, more, settings.redis_max_connections)
        client_servers = open_servers(target, settings, more, CONNECTIONS)
        publish_servers = open_servers(target, settings, more, PUBLISH_CONNECTIONS)
        service = RedisBroker(servers, client_servers, publish_servers, loop, settings)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(service.run_shared_calls)
                yield service
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + settings.redis_timeout):
                await service.close()
                await loop.run_aio_coroutine(servers.close())
                await loop.run_aio_coroutine(client_servers.close())
                await loop.run_aio_coroutine(publish_servers.close())
