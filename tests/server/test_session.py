"""Sessions on real socket pairs and a mock clock: one client's life, and that it never hurts another's."""

import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import msgspec
import pytest
import trio
from prometheus_client import Counter, Gauge
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Message, Ping, Pong, TextMessage
from wsproto.events import Event as ClientEvent

from relay.config import Settings
from relay.core.channels import ChannelPatterns
from relay.core.client_budget import BURST, MAX_SLOWED, RATE
from relay.core.closecodes import Close
from relay.core.errors import BrokerUnavailable
from relay.core.hub import Hub
from relay.core.recovery import Snapshot
from relay.core.updates import Position, Update
from relay.metrics import Metrics
from relay.protocols.base import ClientProtocol, Command
from relay.protocols.frames import ControlReply, Event, FrameReader, Received, text_frame
from relay.protocols.tasks import TasksProtocol
from relay.server.drain import drain
from relay.server.gc_tuning import MemoryTuner
from relay.server.heartbeat import TICK, Heartbeat
from relay.server.session import Session
from relay.server.session_context import LoadHistory, SessionContext, limits_of
from relay.server.session_registry import SessionRegistry
from relay.server.statistics import Statistics
from relay.server.transports import AsgiTransport, SocketTransport
from tests.harness import masked_frame, masked_text

#: Seconds of the mock clock that a client waits for anything.
PATIENCE = 300.0


def value(metric: Counter | Gauge, *labels: str) -> float:
    """What a metric stands at."""
    (family,) = (metric.labels(*labels) if labels else metric).collect()
    (sample, *_) = family.samples
    return float(sample.value)


class Peer:
    """The client's end of a connection; it reads only when the test does."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._parser = Connection(ConnectionType.CLIENT)
        self._events: list[ClientEvent] = []
        self._text = ""
        #: How the stream ended: "end" or "reset".
        self.ended = ""

    def send(self, *messages: Any) -> None:
        for message in messages:
            self.send_bytes(masked_text(msgspec.json.encode(message)))

    def send_bytes(self, data: bytes) -> None:
        assert self.sock.send(data) == len(data)

    def subscribe(self, *task_ids: str) -> None:
        self.send(*({"type": "subscribe", "task_id": task_id} for task_id in task_ids))

    async def event(self) -> ClientEvent | None:
        """The next whole message or control frame; None at the end of the stream."""
        while not self._events:
            if self.ended:
                return None
            with trio.fail_after(PATIENCE):
                await trio.lowlevel.wait_readable(self.sock)
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                data, self.ended = b"", "reset"
            if data:
                self._parser.receive_data(data)
                self._take(self._parser.events())
            else:
                self.ended = self.ended or "end"
        return self._events.pop(0)

    def _take(self, events: Iterable[ClientEvent]) -> None:
        for event in events:
            if isinstance(event, Message):
                self._text += event.data
                if not event.message_finished:
                    continue
                event, self._text = TextMessage(self._text), ""
            self._events.append(event)

    async def json(self) -> Any:
        event = await self.event()
        assert isinstance(event, TextMessage), event
        return msgspec.json.decode(event.data)

    async def rest(self) -> tuple[list[Any], CloseConnection | None]:
        """Read to the end: the messages, and the close frame, which must be the last frame and whole."""
        messages: list[Any] = []
        while (event := await self.event()) is not None:
            if isinstance(event, CloseConnection):
                assert await self.event() is None
                assert not self._text
                return messages, event
            if isinstance(event, TextMessage):
                messages.append(msgspec.json.decode(event.data))
        return messages, None

    def hang_up(self) -> None:
        self.sock.close()


async def redis_is_away(channel: str, since: Position | None) -> Snapshot:
    raise BrokerUnavailable("there is no Redis in this test")


class World:
    """A hub, its sessions, and their metrics; the test is the flusher."""

    def __init__(self, nursery: trio.Nursery, **settings: Any) -> None:
        self.nursery = nursery
        self.settings = Settings(_env_file=None, **settings)  # type: ignore[call-arg]
        self.metrics = Metrics()
        self.hub = Hub(on_pending=lambda: None)
        self.statistics = Statistics(self.metrics, self.hub)
        self.memory = MemoryTuner()
        self.sessions = SessionRegistry(
            nursery,
            self.settings.max_clients,
            self.settings.max_clients_per_address,
            self.settings.close_timeout,
            self.statistics,
            self.memory,
        )
        #: Reads a channel's history; without one Redis is away.
        self.load_history: LoadHistory = redis_is_away
        limits = limits_of(self.settings)
        self.context = SessionContext(
            self.settings,
            limits,
            self.hub,
            self.sessions,
            self.statistics,
            lambda channel, since: self.load_history(channel, since),
        )
        self.heartbeat = Heartbeat(self.sessions, self.statistics, self.memory, self.settings.heartbeat_interval)
        self.peers: list[Peer] = []

    def start_heartbeat(self) -> None:
        self.nursery.start_soon(self.heartbeat.run)

    async def drain(self, within: float) -> None:
        await drain(self.sessions, within)

    def report(self) -> None:
        self.heartbeat.report()

    def session(
        self, pair: tuple[socket.socket, socket.socket] | None = None, protocol: ClientProtocol | None = None
    ) -> tuple[Session, Peer, socket.socket]:
        """A session that is not running yet, its client, and its socket."""
        ours, theirs = pair or socket.socketpair()
        transport = SocketTransport(ours, FrameReader(self.settings.max_message_bytes), 20.0)
        protocol = protocol or TasksProtocol(ChannelPatterns())
        peer = Peer(theirs)
        self.peers.append(peer)
        return Session(self.context, transport, protocol, "test"), peer, ours

    async def connect(
        self,
        *task_ids: str,
        pair: tuple[socket.socket, socket.socket] | None = None,
        protocol: ClientProtocol | None = None,
        events: Sequence[Event] = (),
    ) -> Peer:
        """A client whose session runs, and whose subscriptions are answered."""
        session, peer, _ = self.session(pair, protocol)
        self.nursery.start_soon(session.run, events)
        peer.subscribe(*task_ids)
        for task_id in task_ids:
            assert await peer.json() == {"type": "subscribed", "task_id": task_id}
        await settled()
        return peer

    def publish(self, task_id: str, *numbers: int, pad: int = 0) -> None:
        """One turn of the loop: updates of a task, then the flush."""
        for number in numbers:
            self.hub.on_publication(
                Update(f"task:{task_id}", "task_update", b'{"n":%d,"pad":"%b"}' % (number, b"x" * pad), 0)
            )
        self.hub.flush()

    def publish_news(self, number: int, pad: int = 0) -> None:
        """The same with a general update, of which none is folded into another."""
        data = b'{"n":%d,"pad":"%b"}' % (number, b"x" * pad)
        self.hub.on_publication(Update("general", "general_update", data, 0.0))
        self.hub.flush()

    def assert_empty(self, transport: str = "hijacked") -> None:
        """Nothing is left of any session."""
        self.report()
        assert len(self.sessions) == 0
        assert self.hub.subscriptions == 0
        assert list(self.hub.channels) == []
        assert list(self.sessions.backlogged) == []
        assert value(self.metrics.connections, transport) == 0


MakeWorld = Callable[..., World]


@pytest.fixture
async def make_world(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MakeWorld]:
    """Makes a world with the settings given, on the mock clock; its clients hang up when the test is over."""
    assert isinstance(trio.lowlevel.current_clock(), MockClock), "the test must ask for a clock itself"
    monkeypatch.setattr("relay.server.session.monotonic", trio.current_time)
    monkeypatch.setattr("relay.server.session_registry.monotonic", trio.current_time)
    monkeypatch.setattr("relay.server.heartbeat.monotonic", trio.current_time)
    worlds: list[World] = []

    def make(*, in_nursery: trio.Nursery | None = None, **settings: Any) -> World:
        worlds.append(World(in_nursery or nursery, **settings))
        return worlds[-1]

    yield make
    for world in worlds:
        for peer in world.peers:
            peer.hang_up()


async def settled() -> None:
    """All tasks have done what they can."""
    await wait_all_tasks_blocked()


def small_pair(size: int = 4608) -> tuple[socket.socket, socket.socket]:
    """A pair whose server end takes little before it says "not now"."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    return ours, theirs


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.socket()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        theirs.connect(listener.getsockname())
        ours, _ = listener.accept()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return ours, theirs


def task_update(task_id: str, number: int, pad: int = 0) -> dict[str, Any]:
    return {"type": "task_update", "task_id": task_id, "data": {"n": number, "pad": "x" * pad}}


def news(number: int, pad: int = 0) -> dict[str, Any]:
    return {"type": "general_update", "data": {"n": number, "pad": "x" * pad}}


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
    await trio.sleep(2 * TICK)
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
    assert (error["type"], error["code"]) == ("error", "too_many_subscriptions")
    assert value(world.metrics.messages_invalid, "too_many_subscriptions") == 1
    world.publish("c", 1)
    peer.send({"type": "unsubscribe", "task_id": "a"})
    peer.subscribe("c")
    assert await peer.json() == {"type": "unsubscribed", "task_id": "a"}
    assert await peer.json() == {"type": "subscribed", "task_id": "c"}
    world.publish("c", 2)
    assert await peer.json() == task_update("c", 2)


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
    peer.send_bytes(b"".join(masked_frame(0x89, b"%d" % number) for number in range(5)))
    peer.send({"type": "ping"})
    assert await peer.event() == Pong(b"4")
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


async def test_a_client_whose_handshake_fails_leaves_nothing(autojump_clock: MockClock, make_world: MakeWorld) -> None:
    world = make_world()
    session, _, _ = world.session()
    session.register()
    world.publish_news(1)
    session.unregister()
    session.abort()
    world.assert_empty()


async def test_draining_delivers_what_waits_and_says_1001(autojump_clock: MockClock, make_world: MakeWorld) -> None:
    world = make_world()
    peers = [await world.connect("a", pair=small_pair()) for _ in range(3)]
    world.publish("a", *range(1, 6), pad=3000)
    world.nursery.start_soon(world.drain, 10.0)
    await trio.sleep(0.5)
    assert world.sessions.is_draining
    world.publish("a", 6)  # nobody is there any more to hear it
    for peer in peers:
        messages, closed = await peer.rest()
        assert messages == [task_update("a", number, 3000) for number in range(1, 6)]
        assert closed == CloseConnection(1001, "relay is shutting down")
        peer.hang_up()
    await settled()
    world.assert_empty()
    assert value(world.metrics.connections_closed, "shutdown") == 3
    late = await world.connect()
    assert await late.rest() == ([], CloseConnection(1001, "relay is shutting down"))


async def test_draining_is_paced_within_half_of_its_time(
    autojump_clock: MockClock, make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.server.drain.DRAIN_RATE", 10)
    world = make_world()
    peers = [await world.connect() for _ in range(40)]
    closed_at: list[float] = []

    async def close_politely(peer: Peer) -> None:
        messages, closed = await peer.rest()
        assert (messages, closed) == ([], CloseConnection(1001, "relay is shutting down"))
        closed_at.append(trio.current_time())
        peer.hang_up()

    async with trio.open_nursery() as readers:
        for peer in peers:
            readers.start_soon(close_politely, peer)
        started = trio.current_time()
        await world.drain(20.0)
    per_second = [sum(int(at - started) == second for at in closed_at) for second in range(4)]
    # Ten a second, where one of the first second's may be due at its end.
    assert sum(per_second) == 40
    assert max(per_second) <= 20
    assert trio.current_time() - started < 10.0
    world.assert_empty()


async def test_draining_ends_in_time_whoever_does_not_hang_up(autojump_clock: MockClock, make_world: MakeWorld) -> None:
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
    assert (await stuck[1].rest())[1] == CloseConnection(1001, "relay is shutting down")


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


async def test_cancelled_from_outside_it_says_1001(autojump_clock: MockClock, make_world: MakeWorld) -> None:
    world = make_world()
    session, peer, ours = world.session()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as running:
            running.start_soon(session.run)
            await settled()
            scope.cancel()
            peer.sock.shutdown(socket.SHUT_WR)
    assert await peer.rest() == ([], CloseConnection(1001, "relay is shutting down"))
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


# The same session on plain ASGI.


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
    return Session(world.context, transport, TasksProtocol(ChannelPatterns()), "test")


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
