"""The same sessions on plain ASGI."""

from typing import Any

import msgspec
import trio
from trio.testing import MockClock

from relay.core.channels import ChannelPatterns
from relay.core.client_address import ClientAddress
from relay.core.closecodes import Close
from relay.core.grants import EVERYTHING
from relay.protocols.frames import Received
from relay.protocols.tasks import TasksProtocol
from relay.server.asgi_transport import AsgiTransport
from relay.server.session import Session
from tests.server.world import MakeWorld, World, settled, task_update, value


class AsgiPeer:
    """What an ASGI server is to a session."""

    def __init__(self) -> None:
        self.to_session, self._receive = trio.open_memory_channel[dict[str, Any]](100)
        self.sent: list[Any] = []
        self.blocked = trio.Event()
        self.block_at: int | None = None
        self.aborted = False

    async def receive(self) -> Any:
        return await self._receive.receive()

    async def send(self, message: Any) -> None:
        if len(self.sent) == self.block_at:
            self.block_at = None
            self.blocked.set()
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        self.sent.append(message)
        if message["type"] == "websocket.close":
            self.to_session.send_nowait({"type": "websocket.disconnect", "code": message["code"]})

    def abort(self) -> None:
        self.aborted = True

    @property
    def texts(self) -> list[str]:
        return [message["text"] for message in self.sent if message["type"] == "websocket.send"]


def asgi_session(world: World, peer: AsgiPeer) -> Session:
    transport = AsgiTransport(peer.receive, peer.send, 128, None, peer.abort)
    return Session(
        world.context, transport, TasksProtocol(ChannelPatterns()), ClientAddress(None), EVERYTHING, "/ws/tasks"
    )


async def test_on_plain_asgi_it_behaves_the_same(autojump_clock: MockClock, make_world: MakeWorld) -> None:
    world, peer = make_world(), AsgiPeer()
    world.nursery.start_soon(asgi_session(world, peer).run)
    await peer.to_session.send({"type": "websocket.receive", "text": '{"type":"subscribe","task_id":"a"}'})
    await settled()
    world.publish("a", 1, 2)
    await settled()
    await peer.to_session.send({"type": "websocket.receive", "bytes": b"{}"})
    await settled()
    assert [msgspec.json.decode(text) for text in peer.texts] == [
        {"type": "subscribed", "task_id": "a"},
        task_update("a", 1),
        task_update("a", 2),
    ]
    assert peer.sent[-1] == {"type": "websocket.close", "code": 1003, "reason": Close.BINARY.reason}
    world.assert_empty("asgi")


async def test_on_plain_asgi_nothing_is_sent_twice_when_it_ends_in_the_midst_of_a_batch(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    world, peer = make_world(), AsgiPeer()
    session = asgi_session(world, peer)
    world.nursery.start_soon(session.run, [Received('{"type":"subscribe","task_id":"a"}')])
    await settled()
    peer.block_at = 2
    world.publish("a", 1, 2, 3)
    await peer.blocked.wait()
    session.close(Close.SHUTDOWN)
    await settled()
    numbers = [msgspec.json.decode(text)["data"]["n"] for text in peer.texts[1:]]
    assert numbers == [1, 2, 3]


async def test_on_plain_asgi_a_client_that_does_not_read_is_aborted(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    world, peer = make_world(queue_messages=3, coalesce_after=2, close_timeout=2.0), AsgiPeer()
    peer.block_at = 0
    world.nursery.start_soon(asgi_session(world, peer).run, [Received('{"type":"ping"}')])
    await peer.blocked.wait()
    for number in range(5):
        world.publish_news(number)
    assert value(world.metrics.connections_dropped, "slow_messages") == 1
    await trio.sleep(2.1)
    assert peer.aborted
    world.assert_empty("asgi")
