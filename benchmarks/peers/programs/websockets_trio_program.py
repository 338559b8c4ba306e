"""The Trio server of the `websockets` package; a task for each client sends what waits for it."""

import math
import sys
from functools import partial

import trio
import trio_asyncio
from websockets.exceptions import ConnectionClosed
from websockets.trio.server import ServerConnection, serve

from benchmarks.peers.programs.rooms import Rooms, asked_for, published

rooms: Rooms[trio.MemorySendChannel[str]] = Rooms()


async def serve_client(connection: ServerConnection) -> None:
    """Subscribe a client when it asks for that, and send it what comes."""
    send, receive = trio.open_memory_channel[str](math.inf)

    async def send_updates() -> None:
        async for update in receive:
            await connection.send(update)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_updates)
            async for text in connection:
                wanted = asked_for(text)
                if wanted is not None:
                    rooms[wanted[0]].add(send)
                    send.send_nowait(wanted[1])
            nursery.cancel_scope.cancel()
    except* ConnectionClosed:
        pass  # it went while something was sent
    finally:
        rooms.leave(send)


async def fan_out(redis_url: str) -> None:
    """Hand what Redis says to those who follow it."""
    async for task, update in published(redis_url):
        text = update.decode()
        for send in rooms[task]:
            send.send_nowait(text)


async def main(port: int, redis_url: str) -> None:
    """Serve until killed."""
    async with trio_asyncio.open_loop(), trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve, serve_client, port, host="127.0.0.1", backlog=4096))
        await trio_asyncio.aio_as_trio(fan_out)(redis_url)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), sys.argv[2])
