"""Sessions whose clients do not keep up, trickle, or say nothing."""

import socket
from contextlib import suppress
from itertools import pairwise
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock
from wsproto.events import CloseConnection, Ping, Pong, TextMessage

from relay.core.channels import ChannelPatterns
from relay.core.client_budget import BURST, MAX_SLOWED, RATE
from relay.core.client_channels import ClientChannels
from relay.core.closecodes import Close
from relay.protocols.centrifuge import CentrifugeProtocol
from relay.protocols.centrifuge_client import CentrifugeServer
from relay.protocols.centrifuge_json import JsonCodec
from relay.server.heartbeat import PONG_TIMEOUT
from relay.ticks import TICK
from tests.harness import masked_frame, masked_text
from tests.server.world import (
    MakeWorld,
    news,
    settled,
    small_pair,
    task_update,
    value,
)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.socket()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        theirs.connect(listener.getsockname())
        ours, _ = listener.accept()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return ours, theirs


SLOW = [
    (Close.SLOW_MESSAGES, {"queue_messages": 20, "coalesce_after": 2}, 500),
    (
        Close.SLOW_BYTES,
        {"queue_bytes": 100_000, "max_update_bytes": 30_000, "max_state_bytes": 30_000},
        20_000,
    ),  # dropped in mid-frame
    (Close.SLOW_AGE, {"queue_max_age": 5.0}, 3000),
]


@pytest.mark.parametrize(("close", "bounds", "pad"), SLOW, ids=lambda value: getattr(value, "label", ""))
async def test_who_does_not_keep_up_is_dropped_and_if_it_reads_again_is_told_why(
    autojump_clock: MockClock, make_world: MakeWorld, close: Close, bounds: dict[str, Any], pad: int
) -> None:
    world = make_world(close_timeout=2.0, **bounds)
    world.start_heartbeat()
    slow = await world.connect("a", pair=small_pair())
    good = await world.connect("a")
    sent = 0
    while not value(world.metrics.connections_dropped, close.label):
        assert len(world.sessions) == 2
        if sent < 5 or close is not Close.SLOW_AGE:
            sent += 1
            world.publish_news(sent, pad)
            assert await good.json() == news(sent, pad)
        else:
            await trio.sleep(0.1)
        assert sent < 100
    if close is Close.SLOW_AGE:
        assert 5.0 <= trio.current_time() <= 5.0 + 2 * TICK
    # It is out of the hub at once, although its connection is still there.
    assert (len(world.sessions), world.hub.subscriptions) == (2, 2)
    world.publish_news(1000)
    await trio.sleep(1.0)
    messages, closed = await slow.rest()
    assert closed == CloseConnection(4008, close.reason)
    assert 0 < len(messages) < sent
    assert messages == [news(number + 1, pad) for number in range(len(messages))]
    assert slow.ended == "end"
    slow.hang_up()
    assert await good.json() == news(1000)
    await settled()
    assert len(world.sessions) == 1


@pytest.mark.parametrize("reads", ["nothing", "too late"])
async def test_who_does_not_even_read_the_goodbye_is_reset(
    autojump_clock: MockClock, make_world: MakeWorld, reads: str
) -> None:
    world = make_world(close_timeout=2.0)
    slow = await world.connect("a", pair=tcp_pair())
    count = 0
    while world.hub.subscriptions:
        count += 1
        world.publish_news(count, 20_000)
        assert count < 100
    await trio.sleep(1.9)
    assert len(world.sessions) == 1
    await trio.sleep(0.2)
    world.assert_empty()
    if reads == "too late":
        messages, closed = await slow.rest()
        assert closed is None
        assert messages == [news(number + 1, 20_000) for number in range(len(messages))]
        assert slow.ended == "reset"
    slow.hang_up()


async def test_who_asks_without_reading_the_answers_is_not_read_and_then_dropped(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    world = make_world(queue_bytes=20_000, max_update_bytes=2000, queue_max_age=5.0, close_timeout=2.0)
    world.start_heartbeat()
    peer = await world.connect(pair=small_pair())
    sent = 0
    with suppress(BlockingIOError):
        while sent < 100_000:
            peer.send_bytes(masked_text(b'{"type":"ping"}'))
            sent += 1
            if sent % 100 == 0:
                await settled()
    assert sent < 100_000
    assert next(iter(world.sessions.backlogged)).waiting < 500
    await trio.sleep(5.0 + 2 * TICK)
    assert value(world.metrics.connections_dropped, "slow_age") == 1
    peer.hang_up()
    await trio.sleep(3.0)
    world.assert_empty()


async def test_a_message_begun_must_be_finished(autojump_clock: MockClock, make_world: MakeWorld) -> None:
    world = make_world(message_timeout=10.0)
    idle, half = await world.connect("a"), await world.connect()
    message = masked_text(b'{"type":"ping"}')
    half.send_bytes(message[:5])
    await trio.sleep(9)
    half.send_bytes(message[5:] + message[:1])
    assert (await half.json())["type"] == "pong"
    started = trio.current_time()
    assert await half.rest() == ([], CloseConnection(4009, Close.MESSAGE_TIMEOUT.reason))
    assert trio.current_time() - started == pytest.approx(10, abs=0.1)
    assert value(world.metrics.connections_dropped, "message_timeout") == 1
    await trio.sleep(1000)  # silence between two messages is nobody's fault
    world.publish("a", 1)
    assert await idle.json() == task_update("a", 1)


async def test_a_message_that_trickles_in_is_not_waited_for_longer(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    world = make_world(message_timeout=10.0)
    peer = await world.connect()
    peer.send_bytes(masked_text(b" " * 1000)[:9])
    while not value(world.metrics.connections_dropped, "message_timeout"):
        await trio.sleep(5.5)
        assert trio.current_time() < 20
        peer.send_bytes(b" ")


async def test_messages_that_overlap_are_timed_each_for_itself(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    world = make_world(message_timeout=10.0)
    peer = await world.connect()
    message = masked_text(b'{"type":"ping"}')
    peer.send_bytes(message[:5])
    for _ in range(10):
        await trio.sleep(6)
        peer.send_bytes(message[5:] + message[:5])
        assert (await peer.json())["type"] == "pong"


async def test_each_client_has_its_heartbeat_once_in_an_interval_and_not_all_at_once(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    world = make_world(heartbeat_interval=10.0)
    peers = [await world.connect() for _ in range(8)]
    world.start_heartbeat()
    times: dict[int, list[float]] = {}

    async def note_heartbeats(number: int) -> None:
        while isinstance(await peers[number].event(), Ping):
            times.setdefault(number, []).append(trio.current_time())

    async with trio.open_nursery() as readers:
        for number in range(8):
            readers.start_soon(note_heartbeats, number)
        await trio.sleep(30 + TICK / 2)
        readers.cancel_scope.cancel()
    assert sorted(times) == list(range(8))
    for pings in times.values():
        assert pings[0] <= 20.0
        assert len(pings) >= 2
        assert [later - earlier for earlier, later in pairwise(pings)] == [10.0] * (len(pings) - 1)
    assert len({pings[0] for pings in times.values()}) == 8


@pytest.mark.parametrize("interval", [1.0, 25.0])
async def test_a_client_that_does_not_answer_pings_is_closed_soon_and_one_that_does_stays(
    autojump_clock: MockClock, make_world: MakeWorld, interval: float
) -> None:
    world = make_world(heartbeat_interval=interval)
    server = CentrifugeServer(ClientChannels(ChannelPatterns(())), interval, "test", 128)
    silent, lively = [await world.connect(protocol=CentrifugeProtocol(server, JsonCodec())) for _ in range(2)]
    for peer in (silent, lively):
        peer.send({"id": 1, "connect": {}})
        assert "connect" in await peer.json()
    world.start_heartbeat()
    pings: list[float] = []

    async def answer() -> None:
        while await lively.json() == {}:
            pings.append(trio.current_time())
            lively.send({})

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        assert await silent.json() == {}
        asked = trio.current_time()
        (*_, close) = await silent.rest()
        assert trio.current_time() - asked == pytest.approx(PONG_TIMEOUT, abs=2 * TICK)
        assert close is not None
        assert close.code == 3012
        await trio.sleep(3 * interval)
        nursery.cancel_scope.cancel()
    assert len(pings) >= 3
    assert len(world.sessions) == 1


async def test_a_client_with_a_backlog_gets_no_heartbeat_on_top_of_it(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    world = make_world(heartbeat_interval=1.0, queue_max_age=100.0)
    peer = await world.connect("a", pair=small_pair())
    world.publish("a", 1, 2, pad=9000)
    world.start_heartbeat()
    await trio.sleep(10)
    assert value(world.metrics.queue_depth) == value(world.metrics.queue_depth_max) == 2
    assert [await peer.event() for _ in range(2)] == [
        TextMessage(data=msgspec.json.encode(task_update("a", number, 9000)).decode()) for number in (1, 2)
    ]
    assert isinstance(await peer.event(), Ping)


async def test_pongs_and_pings_of_the_client(autojump_clock: MockClock, make_world: MakeWorld) -> None:
    peer = await make_world().connect()
    peer.send_bytes(masked_frame(0x8A, b"unasked") + masked_frame(0x89, b"hello"))
    assert await peer.event() == Pong(b"hello")


async def test_of_several_pings_at_once_the_last_is_answered(autojump_clock: MockClock, make_world: MakeWorld) -> None:
    peer = await make_world().connect()
    peer.send_bytes(b"".join(masked_frame(0x89, b"%d" % number) for number in range(3)))
    peer.send({"type": "ping"})
    assert await peer.event() == Pong(b"2")
    assert (await peer.json())["type"] == "pong"


async def test_a_client_that_sends_without_end_is_slowed_and_then_dropped(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    """Others are served meanwhile, and it is hardly read."""
    world = make_world()
    flooding, other = await world.connect(), await world.connect("a")
    pings = masked_text(b'{"type":"ping"}') * 40

    async def read_all() -> None:
        with suppress(OSError):
            while flooding.sock.fileno() >= 0:
                await trio.lowlevel.wait_readable(flooding.sock)
                if not flooding.sock.recv(65536):
                    return

    world.nursery.start_soon(read_all)
    started = trio.current_time()
    sent = 0
    while not value(world.metrics.connections_dropped, "flooding"):
        with suppress(BlockingIOError, BrokenPipeError):
            sent += flooding.sock.send(pings)
        await trio.sleep(0.01)
        assert trio.current_time() - started < 60
    assert trio.current_time() - started == pytest.approx(MAX_SLOWED, abs=15)
    assert world.hub.subscriptions == 2
    world.publish("a", 1)
    assert await other.json() == task_update("a", 1)
    messages = sent / len(masked_text(b'{"type":"ping"}'))
    assert messages < BURST + 60 * RATE + 100_000  # what the kernel holds of it was not read
