"""How sessions end: drained, cancelled, failed, or because the client has gone."""

import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import pytest
import trio
from trio.testing import MockClock
from wsproto.events import CloseConnection

from relay.core.channels import ChannelPatterns
from relay.core.closecodes import Close
from relay.core.connect_pace import MAX_RETURN, MIN_RETURN
from relay.core.recovery import Snapshot
from relay.core.updates import Position
from relay.protocols.base import Command
from relay.protocols.tasks import TasksProtocol
from relay.server.drain import drain
from tests.harness import masked_frame
from tests.server.world import (
    MakeWorld,
    Peer,
    settled,
    small_pair,
    task_update,
    value,
)


def is_goodbye(closed: CloseConnection | None) -> bool:
    """Whether this is the end of a relay that shuts down, with a time to come back."""
    assert closed is not None
    hint = re.fullmatch(r"relay is shutting down; retry after (\d+\.\d\d) s", closed.reason or "")
    return closed.code == 1001 and hint is not None and MIN_RETURN - 0.01 < float(hint[1]) <= MAX_RETURN


async def closed_politely(peers: Iterable[Peer], drains: Callable[[], Awaitable[None]]) -> list[float]:
    """Drain a relay whose clients answer the closing handshake; return when each was closed."""
    closed_at: list[float] = []

    async def close(peer: Peer) -> None:
        messages, closed = await peer.rest()
        assert not messages
        assert is_goodbye(closed)
        closed_at.append(trio.current_time())
        peer.hang_up()

    async with trio.open_nursery() as readers:
        for peer in peers:
            readers.start_soon(close, peer)
        await drains()
    return closed_at


async def test_draining_delivers_what_waits_and_says_1001(autojump_clock: MockClock, make_world: MakeWorld) -> None:
    world = make_world()
    peers = [await world.connect("a", pair=small_pair()) for _ in range(3)]
    world.publish("a", *range(1, 6), pad=3000)
    world.nursery.start_soon(world.drain, 10.0)
    await trio.sleep(0.5)
    assert world.sessions.is_draining
    world.publish("a", 6)  # nobody is left to receive it
    for peer in peers:
        messages, closed = await peer.rest()
        assert messages == [task_update("a", number, 3000) for number in range(1, 6)]
        assert is_goodbye(closed)
        peer.hang_up()
    await settled()
    world.assert_empty()
    assert value(world.metrics.connections_closed, "shutdown") == 3
    late = await world.connect()
    messages, closed = await late.rest()
    assert not messages
    assert is_goodbye(closed)


async def test_draining_takes_its_window_however_many_there_are(
    autojump_clock: MockClock, make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.server.drain.DRAIN_RATE", 1)
    world = make_world()
    peers = [await world.connect() for _ in range(40)]
    started = trio.current_time()
    closed_at = await closed_politely(peers, partial(drain, world.sessions, 20.0, 8.0))
    assert trio.current_time() - started == pytest.approx(8.0, abs=0.5)
    for second in range(8):
        assert 4 <= sum(int(at - started) == second for at in closed_at) <= 6, "five in each second"


async def test_those_who_leave_come_back_no_faster_than_they_may(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    """A relay with a limit asks for what a relay with the same limit takes."""
    world = make_world(connect_rate=10)
    peers = [await world.connect() for _ in range(40)]
    returns: list[float] = []

    async def come_back(peer: Peer) -> None:
        _, closed = await peer.rest()
        assert is_goodbye(closed)
        assert closed is not None
        returns.append(trio.current_time() + float((closed.reason or "").split()[-2]))
        peer.hang_up()

    async with trio.open_nursery() as readers:
        for peer in peers:
            readers.start_soon(come_back, peer)
        started = trio.current_time()
        await drain(world.sessions, 20.0, 0.0)
    # A place each tenth of a second, and up to a second at random.
    assert 3.9 <= max(returns) - started <= 5.2
    assert max(sum(second <= at - started < second + 1 for at in returns) for second in range(6)) <= 20


async def test_draining_is_paced_within_half_of_its_time(
    autojump_clock: MockClock, make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.server.drain.DRAIN_RATE", 10)
    world = make_world()
    peers = [await world.connect() for _ in range(40)]
    started = trio.current_time()
    closed_at = await closed_politely(peers, partial(world.drain, 20.0))
    per_second = [sum(int(at - started) == second for at in closed_at) for second in range(4)]
    # Ten a second, where one of the first second's may be due at its end.
    assert sum(per_second) == 40
    assert max(per_second) <= 20
    assert trio.current_time() - started < 10.0
    world.assert_empty()


async def test_draining_ends_in_time_though_a_client_does_not_hang_up(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    world = make_world(close_timeout=15.0)
    stuck = [await world.connect("a", pair=small_pair()), await world.connect()]
    world.publish("a", 1, pad=20_000)
    started = trio.current_time()
    world.nursery.start_soon(world.drain, 3.0)
    await trio.sleep(1)
    await world.drain(3.0)  # a second call waits for the first
    await settled()
    assert trio.current_time() - started == pytest.approx(3.0, abs=1.1)
    world.assert_empty()
    assert [peer.sock.fileno() >= 0 for peer in stuck] == [True, True]
    assert is_goodbye((await stuck[1].rest())[1])


@pytest.mark.parametrize("how", ["end of stream", "unread data", "close frame", "close frame without a code"])
async def test_a_client_that_goes_is_let_go(autojump_clock: MockClock, make_world: MakeWorld, how: str) -> None:
    world = make_world()
    peer, other = await world.connect("a"), await world.connect("a")
    if how == "unread data":
        world.publish("a", 1)
        assert await other.json() == task_update("a", 1)
    if how.startswith("close"):
        said = b"" if how.endswith("code") else (4321).to_bytes(2) + b"enough"
        peer.send_bytes(masked_frame(0x88, said))
        world.publish("a", 2)  # before the close frame is read: it is delivered still
        answer = CloseConnection(4321, "enough") if said else CloseConnection(1005, "")
        assert await peer.rest() == ([task_update("a", 2)], answer)
        assert await other.json() == task_update("a", 2)
    peer.hang_up()
    await settled()
    assert (len(world.sessions), world.hub.subscriptions) == (1, 2)
    label = "client_closed" if how.startswith("close") else "gone"
    assert value(world.metrics.connections_closed, label) == 1
    assert sum(sample.value for metric in world.metrics.connections_dropped.collect() for sample in metric.samples) == 0
    world.publish("a", 3)
    assert await other.json() == task_update("a", 3)


async def test_a_client_found_gone_while_it_is_written_to(autojump_clock: MockClock, make_world: MakeWorld) -> None:
    world = make_world()
    peer, other = await world.connect("a"), await world.connect("a")
    peer.hang_up()
    world.publish("a", 1)  # before its session has seen the end of the stream
    assert (await other.json()) == task_update("a", 1)
    await settled()
    assert value(world.metrics.connections_closed, "gone") == 1
    assert len(world.sessions) == 1


class Faulty(TasksProtocol):
    """A protocol with a bug."""

    __slots__ = ("_where",)

    def __init__(self, where: str) -> None:
        super().__init__(ChannelPatterns())
        self._where = where

    def open(self) -> Iterable[Command]:
        if self._where == "open":
            raise ZeroDivisionError
        return super().open()

    def receive(self, message: str | bytes) -> Iterable[Command]:
        if self._where == "receive":
            raise ZeroDivisionError
        yield from super().receive(message)
        if self._where == "after":
            raise ZeroDivisionError


@pytest.mark.parametrize("where", ["open", "receive", "after"])
async def test_a_bug_in_one_session_ends_it_with_1011_and_no_other(
    autojump_clock: MockClock, make_world: MakeWorld, where: str
) -> None:
    world = make_world()
    other = await world.connect("a")
    peer = await world.connect(protocol=Faulty(where))
    peer.send({"type": "subscribe", "task_id": "a"})
    messages, closed = await peer.rest()
    assert messages == ([{"type": "subscribed", "task_id": "a"}] if where == "after" else [])
    assert closed == CloseConnection(1011, "internal error")
    peer.hang_up()
    await settled()
    assert value(world.metrics.connections_dropped, "internal_error") == 1
    world.publish("a", 1)
    assert await other.json() == task_update("a", 1)
    assert (len(world.sessions), world.hub.subscriptions) == (1, 2)


async def never_answers(channel: str, since: Position | None) -> Snapshot:
    await trio.sleep_forever()
    raise AssertionError


@pytest.mark.parametrize("has_a_task", [False, True])
async def test_cancelled_from_outside_it_says_1001(
    autojump_clock: MockClock, make_world: MakeWorld, has_a_task: bool
) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as running:
            world = make_world(in_nursery=running)
            session, peer, ours = world.session()
            running.start_soon(session.run)
            await settled()
            if has_a_task:
                world.load_history = never_answers
                peer.subscribe("a")
                await settled()
            scope.cancel()
            peer.sock.shutdown(socket.SHUT_WR)
    messages, closed = await peer.rest()
    assert not messages
    assert is_goodbye(closed)
    assert ours.fileno() == -1
    world.assert_empty()


async def test_the_first_reason_to_end_wins(autojump_clock: MockClock, make_world: MakeWorld) -> None:
    world = make_world()
    session, peer, _ = world.session()
    world.nursery.start_soon(session.run)
    await settled()
    session.close(Close.TOO_MANY_ERRORS)
    session.close(Close.SHUTDOWN)
    assert (await peer.rest())[1] == CloseConnection(1008, Close.TOO_MANY_ERRORS.reason)
    peer.hang_up()
    await settled()
    assert value(world.metrics.connections_closed, "too_many_errors") == 1
    world.assert_empty()


async def test_the_nursery_of_the_sessions_ends_them_with_its_block(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    async with trio.open_nursery() as nursery:
        world = make_world(in_nursery=nursery)
        session, peer, ours = world.session()
        world.sessions.start(session.run)
        await settled()
        assert len(world.sessions) == 1
        peer.sock.shutdown(socket.SHUT_WR)
        nursery.cancel_scope.cancel()
    world.assert_empty()
    assert ours.fileno() == -1
    with pytest.raises(trio.RunFinishedError):
        world.sessions.start(session.run)
