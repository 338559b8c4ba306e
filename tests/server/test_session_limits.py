"""Limits for all clients of one subject, whenever they say who they are."""

import socket
from dataclasses import replace

import msgspec
import pytest
from trio.testing import MockClock

from relay.core.channels import ChannelPatterns
from relay.core.client_address import ClientAddress
from relay.core.closecodes import Close
from relay.core.errors import Unauthenticated
from relay.core.grants import EVERYTHING, Grant
from relay.protocols.frames import FrameReader
from relay.protocols.tasks import TasksProtocol
from relay.server.auth.authenticator import Entry, OpenAuthenticator
from relay.server.session import Session
from relay.server.transports import SocketTransport
from tests.server.world import MakeWorld, Peer, World, settled


class BySubject(OpenAuthenticator):
    """The token is the subject; "" has none."""

    async def grant_of_token(self, token: str) -> Grant:
        if token == "wrong":
            raise Unauthenticated("invalid", "wrong", Close.INVALID_TOKEN)
        return msgspec.structs.replace(EVERYTHING, subject=token or None)


def connect(world: World, entry: Entry, address: str = "127.0.0.1") -> Peer:
    ours, theirs = socket.socketpair()
    transport = SocketTransport(ours, FrameReader(world.settings.max_message_bytes), 20.0)
    session = Session(
        world.context, transport, TasksProtocol(ChannelPatterns()), ClientAddress(address), entry, "/ws/tasks"
    )
    peer = Peer(theirs)
    world.peers.append(peer)
    world.nursery.start_soon(session.run)
    return peer


def authenticated(token: str) -> dict[str, str]:
    return {"type": "authenticate", "token": token}


ANNE = msgspec.structs.replace(EVERYTHING, subject="anne")
BOB = msgspec.structs.replace(EVERYTHING, subject="bob")


@pytest.mark.parametrize("by_message", [False, True], ids=["with the request", "by a message"])
async def test_one_subject_may_not_have_all_places(
    autojump_clock: MockClock, make_world: MakeWorld, by_message: bool
) -> None:
    world = make_world(max_clients_per_subject=2)
    world.context = replace(world.context, authenticator=BySubject())

    async def client(grant: Grant) -> Peer:
        peer = connect(world, None if by_message else grant)
        if by_message:
            peer.send(authenticated(grant.subject or ""))
        peer.send({"type": "ping"})
        await settled()
        return peer

    async def is_served(peer: Peer) -> bool:
        """It gets an answer to its ping; otherwise it is closed with the documented code."""
        first = await peer.event()
        if getattr(first, "code", None) == Close.CLIENT_LIMIT.code:
            return False
        peer.send({"type": "ping"})
        while (await peer.json())["type"] != "pong":
            pass
        return True

    first, second, third = [await client(ANNE) for _ in range(3)]
    other, nobody = await client(BOB), await client(EVERYTHING)
    assert [await is_served(peer) for peer in (first, second, third, other, nobody)] == [True, True, False, True, True]
    second.hang_up()
    await settled()
    assert await is_served(await client(ANNE))


async def test_a_renewed_grant_takes_no_second_place(autojump_clock: MockClock, make_world: MakeWorld) -> None:
    world = make_world(max_clients_per_subject=1, connect_rate_per_subject=0.01)
    world.context = replace(world.context, authenticator=BySubject())
    peer = connect(world, None)
    for _ in range(3):
        peer.send(authenticated("anne"))
        assert (await peer.json())["type"] == "authenticated"
    peer.send(authenticated("bob"))  # who has room
    assert (await peer.json())["type"] == "authenticated"
    table = world.sessions.client_limits.by_subject
    anne, bob = table.find("anne"), table.find("bob")
    assert anne is not None
    assert bob is not None
    assert (anne.connections, bob.connections) == (0, 1)
    peer.hang_up()
    await settled()
    assert bob.connections == 0


async def test_subscriptions_of_one_subject_are_counted_together(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    world = make_world(max_subscriptions_per_subject=4)
    first, second, other = connect(world, ANNE), connect(world, ANNE, "10.0.0.1"), connect(world, BOB)
    first.subscribe("a", "b")  # and general updates
    await settled()
    second.subscribe("c", "d")
    other.subscribe("c", "d")
    await settled()
    assert [(await first.json())["type"] for _ in range(2)] == ["subscribed", "subscribed"]
    assert (await second.json())["code"] == "too_many_subscriptions"
    assert [(await other.json())["type"] for _ in range(2)] == ["subscribed", "subscribed"]
