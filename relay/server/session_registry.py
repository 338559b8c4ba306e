"""The sessions of this process: who is connected, who is closing, who is behind, and the nursery they run in."""

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Protocol

import trio

from relay.core.client_address import ClientAddress
from relay.core.client_limits import ClientLimits, ClientShare
from relay.core.closecodes import Close
from relay.core.connect_pace import ReturnSchedule
from relay.core.revocations import Revocations
from relay.core.send_queue import QueueReport
from relay.server.gc_tuning import MemoryTuner
from relay.server.statistics import Statistics


class RegisteredSession(Protocol):
    """A session, as the registry, the heartbeat and the drain see it. No method waits."""

    @property
    def client(self) -> ClientAddress:
        """The client's address."""

    @property
    def way(self) -> str:
        """The path at which it connected."""

    @property
    def share(self) -> ClientShare:
        """The client's share of limits that it has in common with others."""

    @property
    def transport_name(self) -> str:
        """The metrics label of the transport."""

    @property
    def closing(self) -> Close | None:
        """Why the session ends; None while it is open."""

    @property
    def waiting(self) -> int:
        """Messages that wait to be written."""

    def report(self, now: float) -> QueueReport:
        """Return what waits for the client. `now` is in seconds of the monotonic clock."""

    def close(self, close: Close) -> None:
        """End the session this way; the first reason wins."""

    def heartbeat(self, now: float) -> bool:
        """Send a heartbeat; return whether the client has to answer it. `now` is as in `check_age`."""

    def check_pong(self, asked_by: float) -> bool:
        """Close the session if its client has not answered a heartbeat that was sent by then; return whether to check again."""

    def check_age(self, now: float) -> None:
        """Close the session when a message has waited too long; `now` is in seconds of the monotonic clock."""

    def check_revoked(self, revocations: Revocations) -> None:
        """Close the session if its grant is revoked."""

    def abort(self) -> None:
        """Close the connection at once."""


class Cancellable(Protocol):
    """What waits for the first bytes of a connection."""

    def cancel(self) -> None:
        """Wait no longer."""


class SessionRegistry:
    """All sessions of this process.

    Args:
        nursery: Runs the sessions whose sockets were hijacked. Its opener joins them.
        limit: Sessions that may be open at a time.
        client_limits: Limits for clients of one address or one subject.
        close_timeout: Seconds that a closing handshake may take.
        statistics: Counts sessions.
        memory: Notified of clients that connect and leave.
        returns: When clients come back that must go, as the relay shuts down.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        limit: int,
        client_limits: ClientLimits,
        close_timeout: float,
        statistics: Statistics,
        memory: MemoryTuner,
        returns: ReturnSchedule,
    ) -> None:
        self._nursery = nursery
        self._limit = limit
        self.client_limits = client_limits
        self._close_timeout = close_timeout
        self._statistics = statistics
        self._memory = memory
        self.returns = returns
        self._all: dict[RegisteredSession, None] = {}
        self._abort_at: dict[RegisteredSession, float] = {}
        #: Sessions that are closing, and free much memory when they end.
        self._large: set[RegisteredSession] = set()
        self._silent: set[Cancellable] = set()
        self._is_draining = False
        self._empty = trio.Event()
        self._empty.set()
        #: How many there are, by way in and transport.
        self.connections = Counter[tuple[str, str]]()
        #: Sessions with something in their send queue, those that have been behind the longest first.
        self.backlogged: dict[RegisteredSession, None] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[RegisteredSession]:
        return iter(self._all)

    @property
    def is_full(self) -> bool:
        """The limit is reached: no further client is accepted."""
        return len(self._all) >= self._limit

    @property
    def is_draining(self) -> bool:
        """The relay is shutting down: no further client is accepted."""
        return self._is_draining

    def start_draining(self) -> None:
        """Close silent connections now, and each session that begins from now on.

        Sessions that are open are closed by `relay.server.drain`.
        """
        self._is_draining = True
        for silent in list(self._silent):
            silent.cancel()

    def add_silent(self, connection: Cancellable) -> None:
        """Have what waits for the first bytes of a connection cancelled when draining starts, until `discard_silent`."""
        self._silent.add(connection)

    def discard_silent(self, connection: Cancellable) -> None:
        """Undo `add_silent`. May be called again."""
        self._silent.discard(connection)

    @contextmanager
    def silent_connection(self, scope: trio.CancelScope) -> Iterator[None]:
        """For the time of the block, cancel a scope when draining starts. It waits for the first bytes of a connection."""
        self.add_silent(scope)
        try:
            yield
        finally:
            self.discard_silent(scope)

    def start(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run a session in the registry's nursery.

        Raises:
            trio.RunFinishedError: The relay has stopped.
        """
        try:
            self._nursery.start_soon(run)
        except RuntimeError:
            raise trio.RunFinishedError("the relay has stopped") from None

    def add(self, session: RegisteredSession) -> None:
        """Register a session that begins; while draining it is closed at once."""
        self._all[session] = None
        if self._empty.is_set():
            self._empty = trio.Event()
        session.share.join(self.client_limits.by_address, session.client.network)
        self._memory.on_client_started()
        self.connections[session.way, session.transport_name] += 1
        self._statistics.on_session_started(session.transport_name)
        if self._is_draining:
            session.close(Close.SHUTDOWN)

    def on_closing(self, session: RegisteredSession, close: Close) -> None:
        """Count a session that is about to end, and limit how long its closing handshake may take."""
        self._abort_at[session] = monotonic() + self._close_timeout
        if close.is_drop or session.waiting:
            self._large.add(session)
        self._statistics.on_session_closing(close, str(session.client), session.waiting)

    def remove(self, session: RegisteredSession) -> None:
        """Forget a session that has ended; its connection is closed."""
        del self._all[session]
        self._abort_at.pop(session, None)
        session.share.leave()
        self._memory.on_client_ended(was_large=session in self._large)
        self._large.discard(session)
        self.connections[session.way, session.transport_name] -= 1
        self._statistics.on_session_ended(session.transport_name)
        if not self._all:
            self._empty.set()

    def abort_overdue(self, now: float) -> None:
        """Abort each connection whose closing handshake has passed its deadline.

        Args:
            now: Seconds of the monotonic clock.
        """
        for session in [session for session, due in self._abort_at.items() if now > due]:
            self._abort_at[session] = math.inf
            session.abort()

    async def wait_empty(self) -> None:
        """Wait until no session is left."""
        await self._empty.wait()
