"""The Trio server of the `websockets` package; a task for each client sends the updates that wait for it."""

from websockets.exceptions import ConnectionClosed
from websockets.trio.server import ServerConnection, serve

from benchmarks.peers.programs.trio_rooms import run, serve_client


async def _accept(connection: ServerConnection) -> None:
    try:
        await serve_client(connection.recv, connection.send)
    except* ConnectionClosed:
        pass


async def _serve(port: int) -> None:
    await serve(_accept, port, host="127.0.0.1", backlog=4096)


if __name__ == "__main__":
    run(_serve)
