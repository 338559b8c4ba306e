"""The `websockets` package on uvloop, with its `broadcast()`, which is made for this."""

import sys

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

from benchmarks.peers.programs.rooms import Rooms, published, requested

rooms: Rooms[ServerConnection] = Rooms()


async def serve_client(connection: ServerConnection) -> None:
    """Subscribe a client when it asks for that."""
    try:
        async for text in connection:
            wanted = requested(text)
            if wanted is not None:
                rooms[wanted[0]].add(connection)
                await connection.send(wanted[1])
    finally:
        rooms.leave(connection)


async def main(port: int, redis_url: str) -> None:
    """Serve until killed."""
    async with serve(serve_client, "127.0.0.1", port, backlog=4096):
        async for task, update in published(redis_url):
            broadcast(rooms[task], update.decode())


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2]))
