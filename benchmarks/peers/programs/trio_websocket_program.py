"""trio-websocket; a task for each client sends what waits for it."""

import math
import sys
from functools import partial

import trio
import trio_asyncio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest

from benchmarks.peers.programs.rooms import Rooms, asked_for, published

rooms: Rooms[trio.MemorySendChannel[str]] = Rooms()


async def serve_client(request: WebSocketRequest) -> None:
    """Subscribe a client when it asks for that, and send it what comes."""
    connection: WebSocketConnection = await request.accept()
    send, receive = trio.open_memory_channel[str](math.inf)

    async def send_updates() -> None:
        async for update in receive:
            await connection.send_message(update)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_updates)
            while True:
                wanted = asked_for(await connection.get_message())
                if wanted is not None:
                    rooms[wanted[0]].add(send)
                    send.send_nowait(wanted[1])
    except* ConnectionClosed:
        pass  # it went
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
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1", backlog=4096)
    async with trio_asyncio.open_loop(), trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve_on, listeners))
        await trio_asyncio.aio_as_trio(fan_out)(redis_url)


async def serve_on(listeners: list[trio.SocketListener]) -> None:
    """`serve_websocket` has no option for the backlog."""
    from trio_websocket import WebSocketServer

    await WebSocketServer(serve_client, listeners, message_queue_size=1).run()


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), sys.argv[2])
