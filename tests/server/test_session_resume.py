"""Clients that resume where what they missed was read for others a moment ago."""

import socket
from typing import Any

import trio
from trio.testing import MockClock

from relay.core.channels import ChannelPatterns
from relay.core.client_address import ClientAddress
from relay.core.grants import Grant
from relay.core.recovery import Snapshot
from relay.core.shared_updates import SharedUpdates
from relay.core.subscription import PAGE_UPDATES
from relay.core.updates import Position, Update
from relay.protocols.frames import FrameReader
from relay.protocols.tasks import TasksProtocol
from relay.server.session import Session
from relay.server.transports import SocketTransport
from tests.server.world import MakeWorld, Peer, World, settled

CHANNEL = "task:t"


def update(offset: int) -> Update:
    return Update(CHANNEL, "task_update", b'{"n":%d}' % offset, 0.0, Position("e", offset))


def known_to(world: World, top: int) -> None:
    """The channel is live, and its history up to here was read for another client."""
    world.hub.pin(CHANNEL)
    world.hub.catch_up(CHANNEL, Snapshot(Position("e", top), [], None))
    missed = SharedUpdates(update(offset) for offset in range(1, top + 1))
    world.hub.histories.learn(CHANNEL, Position("e", 0), Snapshot(Position("e", top), missed, None), 0.0)


def resume(peer: Peer, offset: int) -> None:
    peer.send({"type": "subscribe", "task_id": "t", "position": {"epoch": "e", "offset": offset}})


async def missed_by(peer: Peer, count: int) -> list[Any]:
    return [(await peer.json())["position"]["offset"] for _ in range(count)]


async def test_a_client_gets_what_is_known_without_a_read_and_then_what_is_live(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    world = make_world()  # Redis is away
    known_to(world, 5)
    peer = await world.connect()
    await settled()
    resume(peer, 2)
    answer = await peer.json()
    assert (answer["recovered"], answer["state"], answer["position"]["offset"]) == (True, False, 5)
    assert await missed_by(peer, 3) == [3, 4, 5]
    world.hub.on_publication(update(6))
    world.hub.flush()
    assert await missed_by(peer, 1) == [6]
    # It knows now what was live, too; and who has everything gets nothing.
    second = await world.connect()
    resume(second, 6)
    assert (await second.json())["recovered"]
    resume(peer, 5)
    assert (await peer.json())["recovered"]
    assert await missed_by(peer, 1) == [6]
    assert world.hub.subscriptions == 4, "each follows the task and what is general"


async def test_many_in_one_turn_all_get_what_they_missed(autojump_clock: MockClock, make_world: MakeWorld) -> None:
    world = make_world()
    known_to(world, 5)
    peers = [await world.connect() for _ in range(150)]
    await settled()
    for peer in peers:
        resume(peer, 3)
    for peer in peers:
        assert (await peer.json())["recovered"]
        assert await missed_by(peer, 2) == [4, 5]


async def test_more_than_a_page_comes_at_the_pace_of_the_client(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    world = make_world()
    top = 2 * PAGE_UPDATES + 1
    known_to(world, top)
    peer = await world.connect()
    resume(peer, 0)
    assert (await peer.json())["recovered"]
    assert await missed_by(peer, top) == list(range(1, top + 1))


async def test_a_limit_holds_also_where_nothing_is_read(autojump_clock: MockClock, make_world: MakeWorld) -> None:
    world = make_world(max_subscriptions=1)
    known_to(world, 5)
    peer = await world.connect()
    resume(peer, 2)
    assert (await peer.json())["code"] == "too_many_subscriptions"


async def test_what_is_known_is_for_those_who_may_have_it(
    autojump_clock: MockClock, make_world: MakeWorld, nursery: trio.Nursery
) -> None:
    world = make_world()
    known_to(world, 5)
    ours, theirs = socket.socketpair()
    transport = SocketTransport(ours, FrameReader(world.settings.max_message_bytes), 20.0)
    protocol = TasksProtocol(ChannelPatterns())
    session = Session(world.context, transport, protocol, ClientAddress("127.0.0.1", 1), Grant(), "/ws/tasks")
    peer = Peer(theirs)
    world.peers.append(peer)
    nursery.start_soon(session.run)
    resume(peer, 2)
    assert (await peer.json())["code"] == "forbidden"
