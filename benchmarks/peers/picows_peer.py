"""picows on uvloop: a message from Redis is sent to every subscribed client as it comes."""

import json
import sys

import redis.asyncio
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

from benchmarks.wire import GENERAL_CHANNEL, TASK_CHANNEL

subscribed: set[WSTransport] = set()


class Connection(WSListener):  # type: ignore[misc,unused-ignore]  # a C class, not typed everywhere
    """One client."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Subscribe it when it asks for that."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
        elif frame.msg_type == WSMsgType.TEXT:
            request = json.loads(frame.get_payload_as_bytes())
            if request["type"] == "subscribe":
                subscribed.add(transport)
                answer = {"type": "subscribed", "task_id": request["task_id"]}
                transport.send(WSMsgType.TEXT, json.dumps(answer).encode())

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Forget it."""
        subscribed.discard(transport)


async def serve(port: int, redis_url: str) -> None:
    """Serve until killed."""
    server = await ws_create_server(lambda _: Connection(), "127.0.0.1", port, backlog=1024)
    client = redis.asyncio.Redis.from_url(redis_url)
    async with server, client.pubsub() as pubsub:
        await pubsub.subscribe(TASK_CHANNEL, GENERAL_CHANNEL)
        async for message in pubsub.listen():
            if message["type"] == "message":
                for transport in list(subscribed):
                    transport.send(WSMsgType.TEXT, message["data"])


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
