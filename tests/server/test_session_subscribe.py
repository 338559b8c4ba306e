"""Sessions that join channels, on the mock clock: paced, ended in the midst, and with what is offered while they end."""

from collections.abc import Iterable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from relay.core.channels import NamedChannels
from relay.core.closecodes import Close
from relay.core.recovery import Snapshot
from relay.core.updates import Position, Update
from relay.protocols.base import Command
from relay.protocols.tasks import TasksProtocol
from relay.server.session import JOIN_RATE, Session
from relay.server.transports import AsgiTransport
from tests.server.test_session import MakeWorld, make_world, settled, small_pair

__all__ = ["make_world"]  # a fixture


def live(channel: str, offset: int, size: int = 0) -> Update:
    return Update(channel, "task_update", b'{"x":"%b"}' % (b"y" * size), 0.0, Position("e", offset))


async def test_who_joins_again_and_again_has_to_wait(autojump_clock: MockClock, make_world: MakeWorld) -> None:
    world = make_world(max_subscriptions=5)

    async def read_past(channel: str, since: Position | None) -> Snapshot:
        world.hub.catch_up(channel, Snapshot(Position("e", 0), [], None))
        return Snapshot(Position("e", 0), None, None)

    world.read_history = read_past
    peer = await world.connect()
    started = trio.current_time()
    for number in range(4 + 2 * round(JOIN_RATE)):
        peer.subscribe(str(number))
        assert (await peer.json())["type"] == "subscribed"
        if number == 3:
            assert trio.current_time() == started, "as many as it may follow it joins at once"
        peer.send({"type": "unsubscribe", "task_id": str(number)})
        assert (await peer.json())["type"] == "unsubscribed"
    assert trio.current_time() - started == pytest.approx(2.0, abs=0.1)


async def test_who_overflows_while_it_joins_leaves_nothing_behind(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    world = make_world(max_update_bytes=32_768, max_state_bytes=32_768, queue_bytes=65_536)

    async def read_past(channel: str, since: Position | None) -> Snapshot:
        world.hub.catch_up(channel, Snapshot(Position("e", 0), [], None))  # it is live from here on
        await trio.sleep(1)
        for offset in range(1, 21):
            world.hub.hear(live(channel, offset, 20_000))
        return Snapshot(Position("e", 0), None, None)  # and this was read before all that

    world.read_history = read_past
    session, peer, _ = world.session(small_pair())
    world.nursery.start_soon(session.run)
    peer.subscribe("t")
    await trio.sleep(2)
    assert session.closing is Close.SLOW_BYTES
    peer.hang_up()
    await trio.sleep(20)
    world.assert_empty()


class Buggy(TasksProtocol):
    """Fails at the first message."""

    def receive(self, message: str | bytes) -> Iterable[Command]:
        raise ZeroDivisionError(message)


@pytest.mark.parametrize("turns", range(5))
@pytest.mark.parametrize("ends_by", ["a bug", "cancellation", "a bug in sending"])
async def test_what_is_offered_while_a_session_ends_fails_nobody(
    ends_by: str, turns: int, autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    world = make_world()
    said, scope = trio.Event(), trio.CancelScope()

    async def receive() -> Any:
        await said.wait()
        return {"type": "websocket.receive", "text": "x"}

    async def send(message: Any) -> None:
        await trio.lowlevel.checkpoint()
        if ends_by == "a bug in sending" and message["type"] == "websocket.send":
            raise ZeroDivisionError

    protocol = (Buggy if ends_by == "a bug" else TasksProtocol)(NamedChannels())
    session = Session(world.context, AsgiTransport(receive, send, 128, None, None), protocol, "test")

    async def run() -> None:
        with scope:
            await session.run()

    world.nursery.start_soon(run)
    await settled()
    if ends_by == "a bug":
        said.set()
    elif ends_by == "cancellation":
        scope.cancel()
    else:
        world.publish_news(0)
    for _ in range(turns):
        await trio.lowlevel.checkpoint()
    world.publish_news(1)  # which would not be written at once
    await settled()
    await trio.sleep(30)
    assert session.closing is (Close.SHUTDOWN if ends_by == "cancellation" else Close.INTERNAL_ERROR)
    world.assert_empty("asgi")
