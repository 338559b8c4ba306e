"""Litestar's channels plugin with its Redis backend: the plugin's own subscriptions and its own loop to the socket."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, WebSocket, websocket
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.redis import RedisChannelsPubSubBackend
from redis.asyncio import Redis

from benchmarks.peers.programs.rooms import requested

redis = Redis.from_url(os.environ["BENCH_REDIS_URL"])


@websocket("/ws/tasks")
async def serve_client(socket: WebSocket[Any, Any, Any], channels: ChannelsPlugin) -> None:
    """Subscribe a client to the task of its first message, until it disconnects."""
    await socket.accept()
    wanted = requested(await socket.receive_text())
    assert wanted is not None
    async with (
        channels.start_subscription([f"task:{wanted[0]}"]) as subscriber,
        subscriber.run_in_background(socket.send_data),
    ):
        await socket.send_text(wanted[1])
        while (await socket.receive())["type"] != "websocket.disconnect":
            pass


@asynccontextmanager
async def lifespan(app: Litestar) -> AsyncIterator[None]:
    """Open the connection to Redis before clients come.

    The backend opens it with the first subscription; of several first ones at once each opens its own, and only the last
    is listened to.
    """
    async with app.plugins.get(ChannelsPlugin).start_subscription(["first"]):
        yield
    await redis.aclose()


plugin = ChannelsPlugin(
    backend=RedisChannelsPubSubBackend(redis=redis, key_prefix="BENCH"), arbitrary_channels_allowed=True
)
app = Litestar([serve_client], plugins=[plugin], lifespan=[lifespan])
