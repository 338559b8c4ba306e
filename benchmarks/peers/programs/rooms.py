"""Shared by all programs: the clients of each task, the request of a client, and the updates that Redis publishes."""

import json
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

import redis.asyncio

_PREFIX = "task:"

C = TypeVar("C")


class Rooms(Generic[C]):
    """Clients by the task that they follow."""

    def __init__(self) -> None:
        self._rooms: defaultdict[str, set[C]] = defaultdict(set)

    def __getitem__(self, task: str) -> set[C]:
        return self._rooms[task]

    def leave(self, client: C) -> None:
        """Remove a client from all rooms."""
        for task in [task for task, room in self._rooms.items() if client in room]:
            self._rooms[task].discard(client)
            if not self._rooms[task]:
                del self._rooms[task]


def requested(text: str | bytes) -> tuple[str, str] | None:
    """Return the task that a client subscribes to, and the reply; None for any other request."""
    request = json.loads(text)
    if request["type"] != "subscribe":
        return None
    task = request["task_id"]
    return task, json.dumps({"type": "subscribed", "task_id": task})


async def published(redis_url: str) -> AsyncIterator[tuple[str, bytes]]:
    """Yield tasks and their updates as Redis publishes them."""
    async with redis.asyncio.Redis.from_url(redis_url) as client, client.pubsub() as pubsub:
        await pubsub.psubscribe(_PREFIX + "*")
        async for message in pubsub.listen():
            if message["type"] == "pmessage":
                yield message["channel"].decode()[len(_PREFIX) :], message["data"]
