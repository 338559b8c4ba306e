"""The least of a service that Relay replaces: it reads the two Redis channels, and keeps its own list of WebSockets.

    python former_manager.py REDIS_URL PORT

It has the habits of many such services: what it finds missing it takes for empty, what it cannot read it leaves out, what a
client may not send ends the connection. The forms that it forwards are those of docs/protocol.md.
"""

import asyncio
import json
import sys
from collections import defaultdict
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from redis.asyncio import Redis
from websockets.asyncio.server import ServerConnection, broadcast, serve

clients: set[ServerConnection] = set()
followers: defaultdict[Any, set[ServerConnection]] = defaultdict(set)


def forward(channel: str, message: dict[str, Any]) -> None:
    data = message.get("data", {})
    if channel == "general_updates":
        broadcast(clients, json.dumps({"type": "general_update", "data": data}))
    elif task_id := message.get("task_id"):
        update = json.dumps({"type": "task_update", "task_id": task_id, "data": data})
        broadcast(followers[task_id], update)


async def answer(client: ServerConnection, message: Any) -> None:
    kind = message["type"]
    if kind == "ping":
        await client.send(json.dumps({"type": "pong", "timestamp": datetime.now(UTC).isoformat()}))
    elif kind in ("subscribe", "unsubscribe") and (task_id := message.get("task_id")):
        (followers[task_id].add if kind == "subscribe" else followers[task_id].discard)(client)
        await client.send(json.dumps({"type": f"{kind}d", "task_id": task_id}))


async def attend(client: ServerConnection) -> None:
    clients.add(client)
    try:
        async for text in client:
            await answer(client, json.loads(text))
    except (ValueError, TypeError, KeyError):
        pass  # the connection ends
    finally:
        clients.discard(client)
        for each in followers.values():
            each.discard(client)


async def main(redis_url: str, port: int) -> None:
    async with Redis.from_url(redis_url, decode_responses=True) as redis, redis.pubsub() as pubsub:
        await pubsub.subscribe("task_updates", "general_updates")
        async with serve(attend, "127.0.0.1", port):
            async for message in pubsub.listen():
                if message["type"] == "message":
                    with suppress(ValueError, TypeError, AttributeError):
                        forward(message["channel"], json.loads(message["data"]))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
