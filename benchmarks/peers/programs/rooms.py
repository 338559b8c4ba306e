"""What all these programs share: who follows which task, what a client asks for, and what Redis says."""

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
        """Take a client out of all rooms."""
        for task in [task for task, room in self._rooms.items() if client in room]:
            self._rooms[task].discard(client)
            if not self._rooms[task]:
                del self._rooms[task]


def asked_for(text: str | bytes) -> tuple[str, str] | None:
    """The task that a client subscribes to, and the answer; None when it wants something else."""
    request = json.loads(text)
    if request["type"] != "subscribe":
        return None
    task = request["task_id"]
    return task, json.dumps({"type": "subscribed", "task_id": task})


async def published(redis_url: str) -> AsyncIterator[tuple[str, bytes]]:
    """Tasks and their updates, as Redis has them."""
    async with redis.asyncio.Redis.from_url(redis_url) as client, client.pubsub() as pubsub:
        await pubsub.psubscribe(_PREFIX + "*")
        async for message in pubsub.listen():
            if message["type"] == "pmessage":
                yield message["channel"].decode()[len(_PREFIX) :], message["data"]
