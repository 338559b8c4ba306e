"""All sessions of this process: the nursery that owns the taken-over ones, the count, the beat, the drain."""

import ctypes
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic

import structlog
import trio

from relay.config import Settings
from relay.core.closecodes import Close
from relay.core.errors import BrokerUnavailable
from relay.core.hub import Hub
from relay.core.outbox import Bounds
from relay.core.recovery import Joining, Snapshot
from relay.core.updates import Position
from relay.metrics import Metrics
from relay.server.garbage import Garbage
from relay.server.session import Session

_log = structlog.get_logger("relay.sessions")

#: Reads where a channel stands, its state, and what came after a position.
ReadPast = Callable[[str, Position | None], Awaitable[Snapshot]]

#: Seconds between two looks at the sessions that need one: bounds in age are kept to within this.
BEAT = 0.25

#: Times that a channel's past is read for a client that joins it, when what is live overtakes it.
_JOIN_ATTEMPTS = 5

#: Clients that are closed in a second while draining, so that they do not all come back to the next relay at once.
DRAIN_RATE = 2000


#: How clients joined a channel's past, in the metrics' words.
_OUTCOMES = {None: "new", True: "recovered", False: "not_recovered"}


class Sessions:
    """The clients of this process, and what their sessions share."""

    def __init__(self, hub: Hub, settings: Settings, metrics: Metrics) -> None:
        self.hub = hub
        self.settings = settings
        self.bounds = Bounds(
            settings.coalesce_after, settings.queue_messages, settings.queue_bytes, settings.queue_max_age
        )
        #: Reads a channel's past, for a client that joins it; the relay sets it before clients come.
        self.read_past: ReadPast | None = None
        self.draining = False
        #: Messages written to clients since the metrics were last brought up to date.
        self.delivered = 0
        self.folded = 0
        #: Sessions with something in their outbox.
        self.backlogged: dict[Session, None] = {}
        self._metrics = metrics
        self._accepted = Counter[str]()  # by transport
        self._connected = Counter[str]()
        self._joined = Counter[bool | None]()  # by outcome
        self._all: dict[Session, None] = {}
        self._closing: dict[Session, None] = {}
        self._nursery: trio.Nursery | None = None
        self.garbage = Garbage()
        self._trims = 0  # beats at which free memory is still to be given back
        self._all_gone = trio.Event()
        self._all_gone.set()

    def __len__(self) -> int:
        return len(self._all)

    @property
    def is_full(self) -> bool:
        """No further client may come in."""
        return len(self._all) >= self.settings.max_clients

    def start(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run a taken-over session as a child of this process's sessions."""
        if self._nursery is None:
            raise trio.RunFinishedError("the relay is not running")
        self._nursery.start_soon(run)

    def add(self, session: Session) -> None:
        """A session begins."""
        self._all[session] = None
        if self._all_gone.is_set():
            self._all_gone = trio.Event()
        self.garbage.on_started()
        self._accepted[session.transport_name] += 1
        self._connected[session.transport_name] += 1
        if self.draining:
            session.close(Close.SHUTDOWN)

    def remove(self, session: Session) -> None:
        """A session has ended and its connection is closed."""
        del self._all[session]
        self._closing.pop(session, None)
        if session.closing is not None and session.closing.is_slow:
            # Now, and twice again: what it had waiting may be held a little longer by what else is under way.
            self._trims = 3 * round(1 / BEAT)
        self._connected[session.transport_name] -= 1
        self.garbage.on_ended()
        if not self._all:
            self._all_gone.set()

    def on_closing(self, session: Session, close: Close) -> None:
        """A session is about to end: count it, and see to it that its goodbye has an end."""
        session.overdue_at = monotonic() + self.settings.close_timeout
        self._closing[session] = None
        self._metrics.closed.labels(close.label).inc()
        if close.is_drop:
            self._metrics.dropped.labels(close.label).inc()
            _log.info(
                "client dropped", client=session.peer, reason=close.label, code=close.code, waiting=session.waiting
            )

    async def read(self, channel: str, joining: Joining) -> Snapshot:
        """Read the past of a channel that is being joined, as often as it takes to be sure that nothing is missed.

        What would not fit into a client's queue counts as not recoverable. Raises BrokerUnavailable or BrokerRefused.
        """
        if self.read_past is None:
            raise BrokerUnavailable("the relay is not connected yet")
        for _ in range(_JOIN_ATTEMPTS):
            joining.begin()
            snapshot = await self.read_past(channel, joining.since)
            if not joining.is_stale:
                break
        else:
            raise BrokerUnavailable("the channel moves faster than its past can be read")
        entries = snapshot.entries
        if entries and (
            len(entries) > self.bounds.messages // 2
            or sum(len(update.data) + 128 for update in entries) > self.bounds.size // 2
        ):
            return snapshot._replace(entries=None)
        return snapshot

    def count_join(self, recovered: bool | None) -> None:
        """A client has joined a channel."""
        self._joined[recovered] += 1

    def count_bad_message(self, code: str) -> None:
        """A client's message was refused."""
        self._metrics.bad_messages.labels(code).inc()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """The nursery of all taken-over sessions; the block's end cancels what is left of them."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                yield
            finally:
                self._nursery = None
                nursery.cancel_scope.cancel()

    async def drain(self, within: float) -> None:
        """Close all clients with 1001, paced, and wait until their sessions have ended, for `within` seconds at most."""
        if self.draining:  # the server's own signal came first; the time runs from there
            with trio.move_on_after(within):
                await self._all_gone.wait()
            return
        self.draining = True
        started = trio.current_time()
        _log.info("draining", clients=len(self._all))
        with trio.move_on_after(within) as scope:
            pace = max(DRAIN_RATE * BEAT / 5, len(self._all) / max(within / 2, BEAT) * BEAT / 5)
            remaining = list(self._all)
            while remaining:
                for _ in range(min(math.ceil(pace), len(remaining))):
                    remaining.pop().close(Close.SHUTDOWN)
                await trio.sleep(BEAT / 5)
            await self._all_gone.wait()
        _log.info("drained", left=len(self._all), seconds=round(trio.current_time() - started, 3))
        if scope.cancelled_caught:
            for session in list(self._all):
                session.abort()

    async def beat(self) -> None:
        """Ping clients, and look after those that are slow or do not end; runs until cancelled."""
        waves = max(1, round(self.settings.heartbeat_interval / BEAT))
        turn = 0
        due: list[Session] = []
        while True:
            await trio.sleep(BEAT)
            now = monotonic()
            for session in list(self.backlogged):
                session.check_age(now)
            for session in [session for session in self._closing if now > session.overdue_at + BEAT]:
                session.overdue_at = math.inf
                session.abort()
            turn += 1
            # Every client has its heartbeat once in an interval, a wave of them at each beat rather than all at once.
            if turn % waves == 0:
                due = list(self._all)
            wave = math.ceil(len(due) / (waves - turn % waves))
            for session in due[:wave]:
                session.heartbeat()
            del due[:wave]
            if self._trims:
                if self._trims % round(1 / BEAT) == 0:
                    _return_free_memory()
                self._trims -= 1
            self.report()

    def report(self) -> None:
        """Bring the metrics up to date."""
        metrics = self._metrics
        metrics.delivered.inc(self.delivered)
        metrics.folded.inc(self.folded)
        self.delivered = self.folded = 0
        for transport, count in self._connected.items():
            metrics.connections.labels(transport).set(count)
            metrics.accepted.labels(transport).inc(self._accepted[transport])
        for recovered, count in self._joined.items():
            metrics.joins.labels(_OUTCOMES[recovered]).inc(count)
        self._accepted.clear()
        self._joined.clear()
        metrics.subscriptions.set(self.hub.subscriptions)
        metrics.channels.set(len(list(self.hub.channels)))
        waiting = [session.waiting for session in self.backlogged]
        metrics.queued.set(sum(waiting))
        metrics.queued_longest.set(max(waiting, default=0))


def _return_free_memory() -> None:
    """Give the system back what a dropped client's queue has left free: glibc would keep most of it for later."""
    if _malloc_trim is not None:
        _malloc_trim(0)


_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
