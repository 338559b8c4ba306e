"""Sessions: what clients ask and get."""

import select
import socket

import pytest
import trio
from trio.testing import MockClock
from wsproto.events import CloseConnection

from relay.core.closecodes import Close
from relay.protocols.frames import ControlReply, Event, Received, text_frame
from relay.server.transports import SocketTransport
from relay.ticks import TICK
from tests.harness import masked_frame, masked_text
from tests.server.world import MakeWorld, news, settled, small_pair, task_update, value


def readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


async def test_subscribing_twice_is_answered_twice_and_delivers_once(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    world = make_world()
    peer, other = await world.connect("a", "a"), await world.connect("b")
    world.publish("a", 1, 2)
    world.publish_news(3)
    for number in (1, 2):
        assert await peer.json() == task_update("a", number)
    assert await peer.json() == news(3)
    assert await other.json() == news(3)
    peer.send({"type": "unsubscribe", "task_id": "a"}, {"type": "unsubscribe", "task_id": "never"}, {"type": "ping"})
    assert await peer.json() == {"type": "unsubscribed", "task_id": "a"}
    assert await peer.json() == {"type": "unsubscribed", "task_id": "never"}
    assert (await peer.json())["type"] == "pong"
    world.publish("a", 3)
    world.publish("b", 4)
    assert await other.json() == task_update("b", 4)
    peer.send({"type": "subscribe", "task_id": "b"})
    assert await peer.json() == {"type": "subscribed", "task_id": "b"}  # and not update 3
    assert world.hub.subscriptions == 4


async def test_every_written_message_is_counted(autojump_clock: MockClock, make_world: MakeWorld) -> None:
    world = make_world()
    world.start_heartbeat()
    peer = await world.connect("a")
    slow = await world.connect("a", pair=small_pair())
    world.publish("a", 1, 2, 3, pad=5000)
    await settled()
    for client in (peer, slow):
        for number in (1, 2, 3):
            assert await client.json() == task_update("a", number, 5000)
    await trio.sleep(1.0 + TICK)
    assert value(world.metrics.messages_sent) == 8
    assert value(world.metrics.subscriptions) == 4
    assert value(world.metrics.channels) == 2


async def test_what_came_before_the_session_is_done_first_and_in_order(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    events: list[Event] = [
        Received('{"type":"subscribe","task_id":"a"}'),
        ControlReply(text_frame(b'"pong"')),
        Received('{"type":"x"}'),
    ]
    peer = await make_world().connect(events=events)
    assert await peer.json() == {"type": "subscribed", "task_id": "a"}
    assert await peer.json() == "pong"
    assert (await peer.json())["code"] == "unknown_type"


async def test_there_is_a_limit_to_subscriptions_and_room_again_after_leaving(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    world = make_world(max_subscriptions=3)  # general updates are one
    peer = await world.connect("a", "b", "a")
    peer.subscribe("c")
    error = await peer.json()
    assert (error["type"], error["code"], error["task_id"]) == ("error", "too_many_subscriptions", "c")
    assert value(world.metrics.messages_invalid, "too_many_subscriptions") == 1
    world.publish("c", 1)
    peer.send({"type": "unsubscribe", "task_id": "a"})
    peer.subscribe("c")
    assert await peer.json() == {"type": "unsubscribed", "task_id": "a"}
    assert await peer.json() == {"type": "subscribed", "task_id": "c"}
    world.publish("c", 2)
    assert await peer.json() == task_update("c", 2)


async def test_a_client_that_exceeds_the_limit_gets_an_error_each_time_and_is_not_dropped(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    world = make_world(max_subscriptions=2, max_client_errors=3)
    peer = await world.connect("a")
    names = [f"more-{number}" for number in range(10)]
    peer.subscribe(*names)
    refused = [await peer.json() for _ in names]
    assert [(error["code"], error["task_id"]) for error in refused] == [
        ("too_many_subscriptions", name) for name in names
    ]
    world.publish("a", 1)
    assert await peer.json() == task_update("a", 1)


async def test_who_keeps_at_malformed_messages_is_dropped_after_the_answers(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    world = make_world(max_client_errors=3)
    peer = await world.connect()
    peer.send("nonsense", {"type": "ping"}, "nonsense", "nonsense", {"type": "ping"})
    messages, closed = await peer.rest()
    assert [message["type"] for message in messages] == ["error", "pong", "error", "error"]
    assert closed == CloseConnection(1008, Close.TOO_MANY_ERRORS.reason)
    peer.hang_up()
    await settled()
    assert value(world.metrics.connections_dropped, "too_many_errors") == 1
    world.assert_empty()


@pytest.mark.parametrize(
    ("data", "close"),
    [
        (masked_frame(0x82, b"{}"), Close.BINARY),
        (b"\x81\x00", Close.PROTOCOL_ERROR),
        (masked_text(b"\xff"), Close.INVALID_TEXT),
        (masked_text(b" " * 129), Close.TOO_BIG),
    ],
    ids=["binary", "unmasked", "invalid text", "too big"],
)
async def test_a_violation_is_answered_with_its_close_code(
    autojump_clock: MockClock, make_world: MakeWorld, data: bytes, close: Close
) -> None:
    world = make_world(max_message_bytes=128)
    peer, other = await world.connect("a"), await world.connect("a")
    peer.send_bytes(data + masked_text(b'{"type":"ping"}'))
    assert await peer.rest() == ([], CloseConnection(close.code, close.reason))
    world.publish("a", 1)
    assert await other.json() == task_update("a", 1)
    assert (
        value(world.metrics.connections_closed, close.label)
        == value(world.metrics.connections_dropped, close.label)
        == 1
    )


async def test_a_client_that_is_connecting_misses_no_general_update(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    """What is published between `register` and the answer to the handshake comes behind it."""
    world = make_world()
    session, peer, ours = world.session()
    session.register()
    world.publish_news(1)
    ours.send(text_frame(b'"handshake"'))
    world.nursery.start_soon(session.run)
    assert await peer.json() == "handshake"
    assert await peer.json() == news(1)
    world.publish_news(2)
    assert await peer.json() == news(2)


async def test_what_came_behind_the_handshake_has_its_turns_like_all_else(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    world = make_world()
    session, peer, _ = world.session()
    transport = session._transport
    assert isinstance(transport, SocketTransport)
    transport.unread(masked_text(b'{"type":"ping"}') * 300)
    world.nursery.start_soon(session.run)
    steps, last = [], 0
    while last < 300:
        await trio.lowlevel.checkpoint()
        steps.append(transport.frames_received - last)
        last += steps[-1]
        while readable(peer.sock):
            peer.sock.recv(65536)
    assert max(steps) <= 16  # of one turn, or of two with the test between them
    assert transport.bytes_received == 300 * 21  # which are charged


async def test_a_client_whose_handshake_fails_leaves_nothing(autojump_clock: MockClock, make_world: MakeWorld) -> None:
    world = make_world()
    session, _, _ = world.session()
    session.register()
    world.publish_news(1)
    session.unregister()
    session.abort()
    world.assert_empty()


async def test_a_subscription_without_history_is_answered_and_followed(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    world = make_world()
    peer = await world.connect()
    peer.send({"type": "unsubscribe", "channel": "general"})
    assert (await peer.json())["type"] == "unsubscribed"
    peer.send({"type": "subscribe", "channel": "general"})
    assert await peer.json() == {"type": "subscribed", "channel": "general"}
    world.publish_news(1)
    assert await peer.json() == news(1)
