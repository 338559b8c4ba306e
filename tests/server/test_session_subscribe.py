"""Sessions that join channels, on the mock clock: paced, ended in the midst, and with what is offered while they end."""

from collections.abc import Iterable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from relay.core.channels import ChannelPatterns
from relay.core.client_address import ClientAddress
from relay.core.client_budget import SUBSCRIBE_RATE
from relay.core.closecodes import Close
from relay.core.grants import EVERYTHING
from relay.core.recovery import Snapshot
from relay.core.updates import Position, Update
from relay.protocols.base import Command, Subscribe
from relay.protocols.tasks import PLAIN, TasksProtocol
from relay.server.asgi_transport import AsgiTransport
from relay.server.session import Session
from tests.server.world import LoadHistory, MakeWorld, World, settled, small_pair


def live(channel: str, offset: int, size: int = 0) -> Update:
    return Update(channel, "task_update", b'{"x":"%b"}' % (b"y" * size), 0.0, Position("e", offset))


async def test_who_joins_again_and_again_has_to_wait(autojump_clock: MockClock, make_world: MakeWorld) -> None:
    world = make_world(max_subscriptions=5)

    async def load_history(channel: str, since: Position | None) -> Snapshot:
        world.hub.catch_up(channel, Snapshot(Position("e", 0), [], None))
        return Snapshot(Position("e", 0), None, None)

    world.load_history = load_history
    peer = await world.connect()
    started = trio.current_time()
    for number in range(4 + 2 * round(SUBSCRIBE_RATE)):
        peer.subscribe(str(number))
        assert (await peer.json())["type"] == "subscribed"
        if number == 3:
            assert trio.current_time() == started, "as many as it may follow it joins at once"
        peer.send({"type": "unsubscribe", "task_id": str(number)})
        assert (await peer.json())["type"] == "unsubscribed"
    assert trio.current_time() - started == pytest.approx(2.0, abs=0.1)


def busy(world: World) -> LoadHistory:
    """Reads during which twenty large updates come, twice as much as may wait for a client."""
    reads = 0

    async def load_history(channel: str, since: Position | None) -> Snapshot:
        nonlocal reads
        reads += 1
        if reads > 1:
            return Snapshot(Position("e", 20), [], None)
        world.hub.catch_up(channel, Snapshot(Position("e", 0), [], None))  # it is live from here on
        await trio.sleep(1)
        for offset in range(1, 21):
            world.hub.on_publication(live(channel, offset, 20_000))
        return Snapshot(Position("e", 0), None, None)  # and this was read before all that

    return load_history


async def test_more_than_may_wait_comes_at_the_pace_of_the_client(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    world = make_world(max_update_bytes=32_768, queue_bytes=200_000, queue_max_age=5.0)
    world.start_heartbeat()
    world.load_history = busy(world)
    session, peer, _ = world.session(small_pair())
    world.nursery.start_soon(session.run)
    peer.subscribe("t")
    assert (await peer.json())["type"] == "subscribed"
    for _ in range(20):
        await trio.sleep(1)  # all of it takes longer than the maximum age
        assert (await peer.json())["type"] == "task_update"
        assert session.closing is None
    world.hub.on_publication(live("task:t", 21))
    world.hub.flush()
    assert (await peer.json())["data"] == {"x": ""}


async def test_who_hangs_up_while_history_waits_for_it_leaves_nothing_behind(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    world = make_world(max_update_bytes=32_768, queue_bytes=65_536)
    world.load_history = busy(world)
    session, peer, _ = world.session(small_pair())
    world.nursery.start_soon(session.run)
    peer.subscribe("t")
    await trio.sleep(2)
    assert session.closing is None
    assert session.waiting > 0
    peer.hang_up()
    await trio.sleep(20)
    world.assert_empty()


class Following(TasksProtocol):
    """Subscribes to three tasks without being asked, as a client of /events does."""

    def open(self) -> Iterable[Command]:
        return [Subscribe(f"task:{task}", PLAIN, lambda _: [b'{"a":"' + b"x" * 1000 + b'"}']) for task in "abc"]


async def test_who_hangs_up_while_it_is_answered_subscribes_to_nothing_any_more(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    """The first answer finds the connection gone; the other subscriptions of the opening must not begin."""
    world = make_world()
    reads: list[str] = []

    async def load_history(channel: str, since: Position | None) -> Snapshot:
        reads.append(channel)
        await trio.lowlevel.checkpoint()
        return Snapshot(Position("e", 0), None, None)

    world.load_history = load_history
    session, peer, _ = world.session(protocol=Following(ChannelPatterns()))
    peer.hang_up()
    await session.run()
    assert reads == ["task:a"]
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

    protocol = (Buggy if ends_by == "a bug" else TasksProtocol)(ChannelPatterns())
    transport = AsgiTransport(receive, send, 128, None, None)
    session = Session(world.context, transport, protocol, ClientAddress(None), EVERYTHING, "/ws/tasks")

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
