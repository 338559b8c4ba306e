"""The `websockets` package on uvloop, with its `broadcast()`, which is made for this."""

import json
import sys

import redis.asyncio
import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

from benchmarks.wire import GENERAL_CHANNEL, TASK_CHANNEL

subscribed: set[ServerConnection] = set()


async def serve_client(connection: ServerConnection) -> None:
    """Subscribe a client when it asks for that."""
    try:
        async for text in connection:
            request = json.loads(text)
            if request["type"] == "subscribe":
                subscribed.add(connection)
                await connection.send(json.dumps({"type": "subscribed", "task_id": request["task_id"]}))
    finally:
        subscribed.discard(connection)


async def main(port: int, redis_url: str) -> None:
    """Serve until killed."""
    client = redis.asyncio.Redis.from_url(redis_url, decode_responses=True)
    async with serve(serve_client, "127.0.0.1", port, backlog=1024), client.pubsub() as pubsub:
        await pubsub.subscribe(TASK_CHANNEL, GENERAL_CHANNEL)
        async for message in pubsub.listen():
            if message["type"] == "message":
                broadcast(subscribed, message["data"])


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2]))
