"""Shared by the programs on Trio: a task for each client sends the updates that wait for it."""

import math
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import trio
import trio_asyncio

from benchmarks.peers.programs.rooms import Rooms, published, requested

rooms: Rooms[trio.MemorySendChannel[str]] = Rooms()


async def serve_client(receive: Callable[[], Awaitable[str | bytes]], send: Callable[[str], Awaitable[Any]]) -> None:
    """Subscribe a client as it asks, and send it the updates, until the library raises that the connection is closed."""
    queue, waiting = trio.open_memory_channel[str](math.inf)

    async def send_waiting() -> None:
        async for update in waiting:
            await send(update)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_waiting)
            while True:
                wanted = requested(await receive())
                if wanted is not None:
                    rooms[wanted[0]].add(queue)
                    queue.send_nowait(wanted[1])
    finally:
        rooms.leave(queue)


async def _fan_out(redis_url: str) -> None:
    async for task, update in published(redis_url):
        text = update.decode()
        for queue in rooms[task]:
            queue.send_nowait(text)


async def _run(serve: Callable[[int], Awaitable[Any]], port: int, redis_url: str) -> None:
    async with trio_asyncio.open_loop(), trio.open_nursery() as nursery:
        nursery.start_soon(serve, port)
        await trio_asyncio.aio_as_trio(_fan_out)(redis_url)


def run(serve: Callable[[int], Awaitable[Any]]) -> None:
    """Serve until killed; port and Redis are the program's arguments."""
    trio.run(_run, serve, int(sys.argv[1]), sys.argv[2])
