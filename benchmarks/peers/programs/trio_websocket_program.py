"""trio-websocket; a task for each client sends the updates that wait for it."""

import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, WebSocketServer

from benchmarks.peers.programs.trio_rooms import run, serve_client


async def _accept(request: WebSocketRequest) -> None:
    connection = await request.accept()
    try:
        await serve_client(connection.get_message, connection.send_message)
    except* ConnectionClosed:
        pass


async def _serve(port: int) -> None:
    # `serve_websocket` has no option for the backlog.
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1", backlog=4096)
    await WebSocketServer(_accept, listeners, message_queue_size=1).run()


if __name__ == "__main__":
    run(_serve)
