"""The watch of sockets: what it reports, and to whom."""

import socket

import pytest
import trio
from trio.testing import MockClock
from wsproto.events import Ping

from relay.core.client_budget import ClientBudget
from relay.core.closecodes import Close
from relay.server.socket_watch import AT_ONCE, TURN_SECONDS, SocketWatch
from tests.harness import masked_frame, masked_text
from tests.server.world import MakeWorld, redis_is_away, settled


class Reader:
    """What is behind a socket; it notes what is reported, and reads when the test does."""

    def __init__(self) -> None:
        self.reports: list[bool] = []
        self.has_ended = self.has_failed = False

    def on_readable(self, *, is_last: bool) -> None:
        self.reports.append(is_last)

    def abort(self) -> None:
        self.has_failed = True

    def on_watch_ended(self) -> None:
        self.has_ended = True


async def test_what_comes_is_reported_once(nursery: trio.Nursery) -> None:
    watch, reader = SocketWatch(), Reader()
    nursery.start_soon(watch.run)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"before")
        watch.add(ours.fileno(), reader)
        await settled()
        assert reader.reports == [False]
        await settled()
        assert reader.reports == [False]  # though nobody has read it
        theirs.send(b"more")
        await settled()
        assert reader.reports == [False, False]
        theirs.shutdown(socket.SHUT_WR)
        await settled()
        assert reader.reports == [False, False, True]


async def test_another_one_gets_the_reports_of_a_socket_that_was_passed_on(nursery: trio.Nursery) -> None:
    watch, first, second = SocketWatch(), Reader(), Reader()
    nursery.start_soon(watch.run)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        watch.add(ours.fileno(), first)
        watch.replace(ours.fileno(), second)
        watch.remove(ours.fileno(), first)  # which is no longer behind it
        theirs.send(b"x")
        await settled()
        assert (first.reports, second.reports) == ([], [False])
        watch.remove(ours.fileno(), second, stays_open=True)
        theirs.send(b"x")
        await settled()
        assert second.reports == [False]
        watch.add(ours.fileno(), first)  # as if it were another socket
        await settled()
        assert first.reports == [False]


@pytest.mark.parametrize(
    ("report_seconds", "at_once"),
    [(1e-4, AT_ONCE), (3e-6, 11 * AT_ONCE)],  # a handshake, and the answer to a heartbeat
)
async def test_others_get_their_turn_between_many_that_are_readable(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, report_seconds: float, at_once: int
) -> None:
    watch, reader = SocketWatch(), Reader()
    monkeypatch.setattr("relay.server.socket_watch.monotonic", lambda: 1000.0 + len(reader.reports) * report_seconds)
    assert 11 * AT_ONCE * 3e-6 >= TURN_SECONDS > 10 * AT_ONCE * 3e-6
    pairs = [socket.socketpair() for _ in range(24 * AT_ONCE)]
    try:
        for ours, theirs in pairs:
            watch.add(ours.fileno(), reader)
            theirs.send(b"x")
        nursery.start_soon(watch.run)
        counts = []
        while len(reader.reports) < len(pairs):
            await trio.lowlevel.checkpoint()
            counts.append(len(reader.reports))
        steps = [after - before for before, after in zip([0, *counts], counts, strict=False)]
        assert at_once <= max(steps) <= 2 * at_once  # of one turn, or of two with the test between them
    finally:
        for pair in pairs:
            for sock in pair:
                sock.close()


async def test_a_bug_behind_one_socket_ends_the_reports_of_that_one_only(nursery: trio.Nursery) -> None:
    class Faulty(Reader):
        def on_readable(self, *, is_last: bool) -> None:
            super().on_readable(is_last=is_last)
            raise KeyError("a bug")

    watch, faulty, reader = SocketWatch(), Faulty(), Reader()
    nursery.start_soon(watch.run)
    pairs = [socket.socketpair() for _ in range(2)]
    for (ours, theirs), behind in zip(pairs, (faulty, reader), strict=True):
        watch.add(ours.fileno(), behind)
        theirs.send(b"x")
    await settled()
    for _, theirs in pairs:
        theirs.send(b"x")
    await settled()
    assert (faulty.reports, faulty.has_failed) == ([False], True)
    assert (reader.reports, reader.has_failed) == ([False, False], False)
    for pair in pairs:
        for sock in pair:
            sock.close()


async def test_whatever_is_watched_learns_of_the_end() -> None:
    watch, reader = SocketWatch(), Reader()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        async with trio.open_nursery() as running:
            running.start_soon(watch.run)
            watch.add(ours.fileno(), reader)
            await settled()
            running.cancel_scope.cancel()
    assert reader.has_ended
    assert not watch.is_open
    with pytest.raises(ValueError, match="closed"):
        watch.add(0, reader)


@pytest.mark.parametrize("parts", [1, 2])
async def test_the_answer_to_a_heartbeat_is_free_and_what_else_comes_is_charged(
    autojump_clock: MockClock, make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    charged: list[tuple[int, int]] = []
    charge = ClientBudget.charge

    def noted(budget: ClientBudget, now: float, frames: int, size: int, shared: float) -> float | Close:
        charged.append((frames, size))
        return charge(budget, now, frames, size, shared)

    monkeypatch.setattr(ClientBudget, "charge", noted)
    world = make_world()
    peer = await world.connect()
    (session,) = world.context.registry
    pong = masked_frame(0x8A, b"")
    session.heartbeat(1.0)
    assert isinstance(await peer.event(), Ping)
    for first in range(0, len(pong), len(pong) // parts):
        peer.send_bytes(pong[first : first + len(pong) // parts])
        await settled()
    assert charged == ([] if parts == 1 else [(0, 3), (1, 3)])  # in parts it is not read at a glance
    charged.clear()
    if parts == 1:
        for _ in range(2):
            peer.send_bytes(pong)
            await settled()
        assert charged == [(1, len(pong))] * 2
        session.heartbeat(2.0)
        assert isinstance(await peer.event(), Ping)
        charged.clear()
    peer.send_bytes(pong + masked_text(b'{"type":"ping"}'))  # a message beside it makes it no lone one
    await settled()
    assert [frames for frames, _ in charged] == [2]
    peer.send({"type": "ping"})
    assert (await peer.json())["type"] == "pong"


async def test_a_client_has_a_task_only_while_something_is_awaited_for_it(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    world = make_world()
    before = trio.lowlevel.current_statistics().tasks_living
    peer = await world.connect()
    assert trio.lowlevel.current_statistics().tasks_living == before
    peer.send({"type": "ping"})
    assert (await peer.json())["type"] == "pong"
    gate = trio.Event()

    async def load_history(channel: str, since: object) -> object:
        await gate.wait()
        return await redis_is_away(channel, None)

    world.load_history = load_history  # type: ignore[assignment]
    peer.subscribe("a")
    await settled()
    assert trio.lowlevel.current_statistics().tasks_living == before + 1
    gate.set()
    assert (await peer.json())["type"] == "subscribed"
    await settled()
    assert trio.lowlevel.current_statistics().tasks_living == before
    world.publish("a", 1)
    assert (await peer.json())["data"]["n"] == 1
    peer.send({"type": "unsubscribe", "task_id": "a"}, {"type": "ping"})
    assert (await peer.json())["type"] == "unsubscribed"
    assert (await peer.json())["type"] == "pong"
    peer.hang_up()
    await settled()
    assert trio.lowlevel.current_statistics().tasks_living == before
    world.assert_empty()
