"""python-socketio with its Redis manager, which rooms of other processes publish through."""

import os

import socketio

server = socketio.AsyncServer(
    async_mode="asgi",
    client_manager=socketio.AsyncRedisManager(os.environ["BENCH_REDIS_URL"]),
    transports=["websocket"],
    cors_allowed_origins="*",
)


@server.on("subscribe")  # type: ignore[untyped-decorator,unused-ignore]
async def subscribe(sid: str, task: str) -> None:
    """Put a client into the room of the task that it asks for."""
    await server.enter_room(sid, task)
    await server.emit("subscribed", task, to=sid)


app = socketio.ASGIApp(server)
