"""Sessions on socket pairs, with a client at the other end that a test plays."""

import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import msgspec
import trio
from prometheus_client import Counter, Gauge
from relay_wire.publications import ScriptCall
from trio.testing import wait_all_tasks_blocked
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Message, TextMessage
from wsproto.events import Event as ClientEvent

from relay.broker.client_publishes import ClientPublishes
from relay.broker.history_ranges import HistoryRanges
from relay.broker.presence import Presence
from relay.broker.script_calls import retention_of
from relay.broker.task_store import TaskStore
from relay.config import Settings
from relay.core.channels import ChannelPatterns
from relay.core.client_address import ClientAddress
from relay.core.connect_pace import ReturnSchedule
from relay.core.errors import BrokerUnavailable
from relay.core.grants import EVERYTHING
from relay.core.hub import Hub
from relay.core.owned_channels import OwnedChannels
from relay.core.recovery import Snapshot
from relay.core.revocations import Revocations
from relay.core.updates import Position, Update
from relay.metrics import Metrics
from relay.protocols.base import ClientProtocol
from relay.protocols.frames import Event, FrameReader
from relay.protocols.tasks import TasksProtocol
from relay.server.auth.authenticator import OpenAuthenticator
from relay.server.drain import drain
from relay.server.gc_tuning import MemoryTuner
from relay.server.heartbeat import Heartbeat
from relay.server.session import Session
from relay.server.session_context import SessionContext, client_limits_of, limits_of
from relay.server.session_queries import ChannelServices
from relay.server.session_registry import SessionRegistry
from relay.server.socket_watch import SocketWatch
from relay.server.statistics import Statistics
from relay.server.transports import SocketTransport
from tests.harness import masked_text

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


#: Reads what came after a position, or the state without one.
LoadHistory = Callable[[str, Position | None], Awaitable[Snapshot]]


async def redis_is_away(channel: str, since: Position | None) -> Snapshot:
    raise BrokerUnavailable("there is no Redis in this test")


async def run_no_calls(calls: Sequence[ScriptCall]) -> list[Any]:
    raise BrokerUnavailable("there is no Redis in this test")


def services_without_redis(settings: Settings) -> ChannelServices:
    return ChannelServices(
        Presence(run_no_calls, sharded=False),
        HistoryRanges(run_no_calls),
        ClientPublishes(run_no_calls, retention_of(settings), sharded=False),
        TaskStore(run_no_calls, run_no_calls, run_no_calls, retention_of(settings), settings.max_tasks, sharded=False),
        settings.max_update_bytes,
    )


class _Histories:
    """What `World.load_history` reads, unless the hub knows it from a moment ago."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def recent(self, channel: str, since: Position) -> Snapshot | None:
        return self._world.hub.histories.find(channel, since, 0.0)

    async def resume(self, channel: str, since: Position | None) -> Snapshot:
        return await self._world.load_history(channel, since)

    async def read(self, channel: str, since: Position | None) -> Snapshot:
        return await self._world.load_history(channel, since)


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
            client_limits_of(self.settings),
            self.settings.close_timeout,
            self.statistics,
            self.memory,
            ReturnSchedule(self.settings.connect_rate),
        )
        #: Reads a channel's history; without one Redis is away.
        self.load_history: LoadHistory = redis_is_away
        self.authenticator = OpenAuthenticator()
        self.owned_channels = OwnedChannels()
        self.revocations = Revocations()
        limits = limits_of(self.settings)
        self.watch = SocketWatch()
        nursery.start_soon(self.watch.run)
        self.context = SessionContext(
            self.settings,
            limits,
            self.hub,
            self.sessions,
            self.statistics,
            _Histories(self),
            self.authenticator,
            self.owned_channels,
            self.revocations,
            services_without_redis(self.settings),
            watch=self.watch,
        )
        self.heartbeat = Heartbeat(self.context, self.memory)
        self.peers: list[Peer] = []

    def start_heartbeat(self) -> None:
        self.nursery.start_soon(self.heartbeat.run)

    async def drain(self, within: float) -> None:
        await drain(self.sessions, within, within / 2)

    def report(self) -> None:
        self.heartbeat.report()

    def session(
        self,
        pair: tuple[socket.socket, socket.socket] | None = None,
        protocol: ClientProtocol | None = None,
        reader: FrameReader | None = None,
    ) -> tuple[Session, Peer, socket.socket]:
        """A session that is not running yet, its client, and its socket."""
        ours, theirs = pair or socket.socketpair()
        transport = SocketTransport(ours, reader or FrameReader(self.settings.max_message_bytes), 20.0)
        protocol = protocol or TasksProtocol(ChannelPatterns())
        peer = Peer(theirs)
        self.peers.append(peer)
        address = ClientAddress("127.0.0.1", 4711)
        return Session(self.context, transport, protocol, address, EVERYTHING, "/ws/tasks"), peer, ours

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


async def settled() -> None:
    """All tasks have done what they can."""
    await wait_all_tasks_blocked()


def small_pair(size: int = 4608) -> tuple[socket.socket, socket.socket]:
    """A pair whose server end takes little before it says "not now"."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    return ours, theirs


def task_update(task_id: str, number: int, pad: int = 0) -> dict[str, Any]:
    return {"type": "task_update", "task_id": task_id, "data": {"n": number, "pad": "x" * pad}}


def news(number: int, pad: int = 0) -> dict[str, Any]:
    return {"type": "general_update", "data": {"n": number, "pad": "x" * pad}}
