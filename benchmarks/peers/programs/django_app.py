"""Django channels with the pub/sub layer of channels-redis: one consumer for each client, one group for each task."""

import os
from typing import Any

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="not a secret: there is no session",
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [os.environ["BENCH_REDIS_URL"]]},
        }
    },
)
django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402 - it needs the settings
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402

from benchmarks.peers.programs.rooms import requested  # noqa: E402


class TaskConsumer(AsyncWebsocketConsumer):  # type: ignore[misc,unused-ignore]  # it publishes no types
    """One client."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Put it into the group of the task that it asks for."""
        wanted = requested(text_data or bytes_data or "")
        if wanted is not None:
            await self.channel_layer.group_add(wanted[0], self.channel_name)
            await self.send(wanted[1])
            self.task = wanted[0]

    async def disconnect(self, code: int) -> None:  # noqa: ARG002 - the contract's
        """Take it out again."""
        if hasattr(self, "task"):
            await self.channel_layer.group_discard(self.task, self.channel_name)

    async def task_update(self, message: dict[str, Any]) -> None:
        """Send the client a message of its group."""
        await self.send(message["text"])


app = ProtocolTypeRouter({"websocket": URLRouter([path("ws/tasks", TaskConsumer.as_asgi())])})
