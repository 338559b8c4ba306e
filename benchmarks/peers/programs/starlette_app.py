"""Starlette's WebSockets: the loop over all connections is that of its users' handbooks."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from benchmarks.peers.programs.rooms import Rooms, published, requested

rooms: Rooms[WebSocket] = Rooms()


async def serve_client(websocket: WebSocket) -> None:
    """Subscribe a client when it asks for that."""
    await websocket.accept()
    try:
        while True:
            wanted = requested(await websocket.receive_text())
            if wanted is not None:
                rooms[wanted[0]].add(websocket)
                await websocket.send_text(wanted[1])
    except WebSocketDisconnect:
        pass
    finally:
        rooms.leave(websocket)


async def fan_out(redis_url: str) -> None:
    """Send the updates that Redis publishes to the clients of their task."""
    async for task, update in published(redis_url):
        text = update.decode()
        for websocket in list(rooms[task]):
            try:
                await websocket.send_text(text)
            except (WebSocketDisconnect, RuntimeError):
                rooms.leave(websocket)


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    """Listen to Redis as long as the app runs."""
    async with asyncio.TaskGroup() as group:
        listener = group.create_task(fan_out(os.environ["BENCH_REDIS_URL"]))
        yield
        listener.cancel()


app = Starlette(routes=[WebSocketRoute("/ws/tasks", serve_client)], lifespan=lifespan)
