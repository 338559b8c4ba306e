"""What services carried with them before: the least that publishes and listens over redis-py."""

import asyncio
import json
import os
import time
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis


class RedisService:
    def __init__(self) -> None:
        self._redis = Redis(
            host=os.environ.get("REDIS_HOST", "localhost"),
            port=int(os.environ.get("REDIS_PORT", "6379")),
            db=int(os.environ.get("REDIS_DB", "0")),
            password=os.environ.get("REDIS_PASSWORD"),
        )
        self._pubsub = self._redis.pubsub()
        self._callbacks: dict[str, Callable[[Any], Any]] = {}

    async def publish_task_update(self, task_id: str, update: dict[str, Any]) -> None:
        message = {"type": "task_update", "task_id": task_id, "data": update, "timestamp": time.time()}
        await self._redis.publish("task_updates", json.dumps(message))

    async def publish_general_update(self, update: dict[str, Any]) -> None:
        message = {"type": "general_update", "data": update, "timestamp": time.time()}
        await self._redis.publish("general_updates", json.dumps(message))

    def subscribe_to_channel(self, channel: str, callback: Callable[[Any], Any]) -> None:
        self._callbacks[channel] = callback

    async def start_listening(self) -> None:
        await self._pubsub.subscribe(*self._callbacks)
        while True:
            message = await self._pubsub.get_message(ignore_subscribe_messages=True, timeout=1.0)
            if message is None:
                continue
            result = self._callbacks[message["channel"].decode()](json.loads(message["data"]))
            if asyncio.iscoroutine(result):
                await result


redis_service = RedisService()
