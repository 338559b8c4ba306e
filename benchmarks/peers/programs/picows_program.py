"""picows on uvloop."""

import sys

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

from benchmarks.peers.programs.rooms import Rooms, published, requested

rooms: Rooms[WSTransport] = Rooms()


class Connection(WSListener):  # type: ignore[misc,unused-ignore]  # a C class, not typed everywhere
    """One client."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Subscribe it when it asks for that."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
        elif frame.msg_type == WSMsgType.TEXT:
            wanted = requested(frame.get_payload_as_bytes())
            if wanted is not None:
                rooms[wanted[0]].add(transport)
                transport.send(WSMsgType.TEXT, wanted[1].encode())

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Forget it."""
        rooms.leave(transport)


async def serve(port: int, redis_url: str) -> None:
    """Serve until killed."""
    async with await ws_create_server(lambda _: Connection(), "127.0.0.1", port, backlog=4096):
        async for task, update in published(redis_url):
            for transport in list(rooms[task]):
                transport.send(WSMsgType.TEXT, update)


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
