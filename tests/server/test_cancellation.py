"""Cancel at each await and look at what is left: nothing may be, not a subscription, a socket or a task."""

import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from trio.testing import MockClock
from wsproto.events import CloseConnection

from relay.core.channels import ChannelPatterns
from relay.core.client_address import TrustedProxies
from relay.core.recovery import Snapshot
from relay.core.updates import Position, Update
from relay.protocols.base import ClientProtocol
from relay.protocols.frames import ControlReply, Event, Received, text_frame
from relay.protocols.tasks import TasksProtocol
from relay.server.admission import Admission
from relay.server.connect_gate import ConnectGate
from relay.server.cors import CorsPolicy
from relay.server.endpoints import Opening, accept_client
from relay.server.session import Session
from tests.harness import masked_frame, masked_text
from tests.server.world import MakeWorld, Peer, World, settled, small_pair, value

SUBSCRIBE = masked_text(b'{"type":"subscribe","task_id":"a"}')


def protocol_of(_opening: Opening) -> ClientProtocol:
    return TasksProtocol(ChannelPatterns())


class CancelAt(trio.abc.Instrument):
    """Cancels a scope when its tasks have taken a number of steps: at the await that the last of them led to."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self.steps_left = step
        self.root: trio.lowlevel.Task | None = None
        self._scope = scope

    def _is_ours(self, task: trio.lowlevel.Task | None) -> bool:
        while task is not None and task is not self.root:
            task = task.parent_nursery.parent_task if task.parent_nursery is not None else None
        return task is not None

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.steps_left and self.root is not None and self._is_ours(task):
            self.steps_left -= 1
            if not self.steps_left:
                self._scope.cancel()


async def cancelled_at(step: int, run: Callable[[], Awaitable[None]], script: Callable[[], Awaitable[None]]) -> bool:
    """Run something beside the script that drives it, and cancel it at its step; false when it took fewer steps."""
    scope = trio.CancelScope()
    instrument = CancelAt(scope, step)

    async def run_in_scope() -> None:
        with scope:
            instrument.root = trio.lowlevel.current_task()
            await run()

    trio.lowlevel.add_instrument(instrument)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_in_scope)
            await script()
    finally:
        trio.lowlevel.remove_instrument(instrument)
    return not instrument.steps_left


Script = Callable[[World, Session, Peer], Awaitable[None]]


async def idle(world: World, session: Session, peer: Peer) -> None:
    await trio.sleep(1)
    peer.send_bytes(masked_frame(0x88, b""))
    await peer.rest()
    peer.hang_up()


async def subscribed_and_receiving(world: World, session: Session, peer: Peer) -> None:
    peer.send_bytes(SUBSCRIBE)
    await settled()
    for number in range(3):
        world.publish("a", number)
        await settled()
        peer.send_bytes(masked_frame(0x89, b"ping"))
        await settled()
        session.heartbeat(0.0)
        await trio.sleep(0.1)
    peer.send_bytes(SUBSCRIBE[:7])  # never finished
    await let_go(peer)


async def let_go(peer: Peer) -> None:
    await peer.rest()
    peer.hang_up()


async def blocked_in_the_send_loop(world: World, session: Session, peer: Peer) -> None:
    peer.send_bytes(SUBSCRIBE)
    await settled()
    for number in range(5):
        world.publish("a", number, pad=3000)
    await settled()
    for _ in range(3):
        await peer.event()
        await settled()
    peer.send_bytes(SUBSCRIBE)
    await settled()
    await trio.sleep(1)
    await let_go_after_hanging_up_half(peer)


async def let_go_after_hanging_up_half(peer: Peer) -> None:
    """It sends no more, but reads to the end."""
    peer.sock.shutdown(socket.SHUT_WR)
    await let_go(peer)


async def in_the_closing_handshake(world: World, session: Session, peer: Peer) -> None:
    peer.send_bytes(SUBSCRIBE)
    await settled()
    world.publish("a", 1, 2, 3, pad=4000)
    peer.send_bytes(masked_frame(0x82, b"binary"))
    await settled()
    for _ in range(3):
        await peer.event()
        await settled()
    await trio.sleep(0.5)
    peer.send_bytes(b"still here")
    await settled()
    await let_go(peer)


async def dropped_as_slow(world: World, session: Session, peer: Peer) -> None:
    peer.send_bytes(SUBSCRIBE)
    await settled()
    for number in range(30):
        world.publish_news(number, 3000)
    await trio.sleep(0.5)
    await let_go(peer)


async def never_reading_again(world: World, session: Session, peer: Peer) -> None:
    peer.send_bytes(SUBSCRIBE)
    await settled()
    for number in range(5):
        world.publish("a", number, pad=3000)
    await trio.sleep(1)
    session.heartbeat(0.0)
    await trio.sleep(50)  # the goodbye has a deadline
    peer.hang_up()


async def joining_a_channel(world: World, session: Session, peer: Peer) -> None:
    """The state takes its time, updates come meanwhile, and what is live catches up later."""
    top = Position("e", 5)
    state = Update("task:a", "task_update", b'{"n":0}', 0.0, top)

    async def load_history(channel: str, since: Position | None) -> Snapshot:
        await trio.sleep(0.2)
        return Snapshot(top, None, state)

    world.load_history = load_history
    peer.send_bytes(SUBSCRIBE)
    await trio.sleep(0.1)
    world.publish("a", 1)
    await trio.sleep(0.2)
    world.hub.catch_up("task:a", Snapshot(top, None, state))
    world.hub.on_publication(Update("task:a", "task_update", b'{"n":2}', 0.0, Position("e", 6)))
    world.hub.flush()
    await settled()
    peer.send_bytes(masked_frame(0x88, b""))
    await let_go(peer)


PRELOADED: list[Event] = [
    Received('{"type":"subscribe","task_id":"a"}'),
    ControlReply(text_frame(b'"%b"' % (b"x" * 20_000))),
]


async def preloaded(world: World, session: Session, peer: Peer) -> None:
    world.publish("a", 1)
    await settled()
    await let_go_after_hanging_up_half(peer)


Made = list[tuple[World, Session, Peer, socket.socket]]


async def run_world(made: Made, make_world: MakeWorld, events: list[Event]) -> None:
    """Run one session in a nursery of its own, with the watch to which it is left when it has no task."""
    async with trio.open_nursery() as nursery:
        world = make_world(in_nursery=nursery, queue_messages=20, coalesce_after=10, close_timeout=2.0)
        session, peer, ours = world.session(small_pair())
        made.append((world, session, peer, ours))
        await session.run(events)
        await world.sessions.wait_empty()
        nursery.cancel_scope.cancel()


SCENARIOS: list[tuple[Script, list[Event]]] = [
    (idle, []),
    (subscribed_and_receiving, []),
    (blocked_in_the_send_loop, []),
    (in_the_closing_handshake, []),
    (dropped_as_slow, []),
    (never_reading_again, []),
    (joining_a_channel, []),
    (preloaded, PRELOADED),
]


@pytest.mark.parametrize(("script", "events"), SCENARIOS, ids=[script.__name__ for script, _ in SCENARIOS])
async def test_a_session_cancelled_anywhere_leaves_nothing(
    autojump_clock: MockClock, make_world: MakeWorld, script: Script, events: list[Event]
) -> None:
    living = trio.lowlevel.current_statistics().tasks_living
    step = 0
    while True:
        step += 1
        made: Made = []

        async def drive(made: Made = made) -> None:
            await settled()
            world, session, peer, _ = made[0]
            try:
                await script(world, session, peer)
            except BrokenPipeError:  # the session has ended before the script
                await peer.rest()
            peer.hang_up()

        was_cancelled = await cancelled_at(step, partial(run_world, made, make_world, events), drive)
        world, session, _, ours = made[0]
        world.assert_empty()
        assert ours.fileno() == -1
        assert session.closing is not None
        assert session.waiting == 0
        assert trio.lowlevel.current_statistics().tasks_living == living
        if not was_cancelled:
            break
        assert step < 200
    assert step > 3  # it was more than one await


async def test_a_client_is_told_that_it_was_the_server_wherever_it_was_cancelled(
    autojump_clock: MockClock, make_world: MakeWorld
) -> None:
    step = 0
    while True:
        step += 1
        made: Made = []
        closed: list[CloseConnection | None] = []

        async def drive(made: Made = made, closed: list[CloseConnection | None] = closed) -> None:
            await settled()
            peer = made[0][2]
            peer.send_bytes(SUBSCRIBE)
            await trio.sleep(0.1)
            peer.send_bytes(SUBSCRIBE)
            await trio.sleep(0.1)
            peer.send_bytes(masked_frame(0x88, (4321).to_bytes(2)))
            closed.append((await peer.rest())[1])
            peer.hang_up()

        if not await cancelled_at(step, partial(run_world, made, make_world, []), drive):
            break
        world = made[0][0]
        (close,) = closed
        assert close is not None
        assert close.code in (1001, 4321)
        assert value(world.metrics.connections_closed, "shutdown") == (close.code == 1001)
    assert step > 3


HANDSHAKE = (
    b"GET /ws/tasks HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def read_until(sock: socket.socket, wanted: bytes) -> bool:
    """Read until something has come; false when the stream ends first."""
    data = b""
    while wanted not in data:
        with trio.fail_after(300):
            await trio.lowlevel.wait_readable(sock)
        try:
            piece = sock.recv(65536)
        except ConnectionResetError:
            return False
        if not piece:
            return False
        data += piece
    return True


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("hijack_sockets", [True, False], ids=["hijacked", "on plain ASGI"])
async def test_a_handshake_or_hijack_cancelled_anywhere_leaves_nothing(
    autojump_clock: MockClock, hijack_sockets: bool
) -> None:
    """On Hypercorn's own connection object; the client sends a message right after the server's part of the handshake."""
    config = Config()
    config.errorlog = None
    answered = ended = 0
    async with trio.open_nursery() as sessions_nursery:
        world = World(sessions_nursery, hijack_sockets=hijack_sockets, close_timeout=1.0)
        gate = ConnectGate(100.0, 5.0, world.sessions, world.sessions.returns)
        policy, proxies = CorsPolicy("*", "*"), TrustedProxies([])
        admission = Admission(world.context, policy, proxies, world.metrics, gate, lambda terminated: None)
        await settled()
        before = trio.lowlevel.current_statistics().tasks_living, open_descriptors()
        step = 0
        while True:
            step += 1
            scope = trio.CancelScope()
            instrument = CancelAt(scope, step)

            async def app(
                asgi_scope: Any,
                receive: Any,
                send: Any,
                scope: trio.CancelScope = scope,
                instrument: CancelAt = instrument,
            ) -> None:
                with scope:
                    instrument.root = trio.lowlevel.current_task()
                    await accept_client(admission, protocol_of, asgi_scope, receive, send)
                instrument.root = None

            ours, theirs = socket.socketpair()
            theirs.setblocking(False)
            stream: Any = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
            wrapped: Any = ASGIWrapper(app)
            trio.lowlevel.add_instrument(instrument)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(TCPServer(wrapped, config, WorkerContext(None), {}, stream).run)
                theirs.send(HANDSHAKE)
                was_answered = await read_until(theirs, b"HTTP/1.1 101 ")
                if was_answered:
                    with suppress(BrokenPipeError):
                        theirs.send(SUBSCRIBE)
                    was_answered = await read_until(theirs, b"subscribed")
                if was_answered:
                    assert len(world.sessions) == 1
                theirs.close()
            await trio.sleep(2)  # what is left has close_timeout
            trio.lowlevel.remove_instrument(instrument)
            answered += was_answered
            ended += not was_answered
            assert len(world.sessions) == 0
            assert world.hub.subscriptions == 0
            assert (trio.lowlevel.current_statistics().tasks_living, open_descriptors()) == before
            if instrument.steps_left:
                break
            assert step < 100
        sessions_nursery.cancel_scope.cancel()  # the watch
    assert was_answered  # when nothing was cancelled
    assert ended  # and it was when something was
