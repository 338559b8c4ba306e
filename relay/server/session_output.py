"""The writing half of a session: what is offered to a client is written at once, or waits in its send queue.

The hub's batches are written the moment they are offered. Only when the connection takes no more does a send loop start in the
session's nursery, which ends when the queue is empty.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from time import monotonic
from typing import Any

import structlog
import trio

from relay.core.batches import Batch, Framing
from relay.core.client_address import ClientAddress
from relay.core.closecodes import Close
from relay.core.revocations import Revocations
from relay.core.send_queue import QueueReport, SendQueue
from relay.protocols.base import Farewell
from relay.server.session_context import SessionContext
from relay.server.transports import Transport

_log = structlog.get_logger("relay.session")


class SessionOutput(ABC):
    """Writes to one client. `relay.server.session.Session` is its only subclass: a delivery costs one call and no more.

    Attributes:
        client: The client's address.
        way: The path at which it connected.
        share: Its share of the limits of its address and its subject.
        closing: How the session ends; None while it is open.
    """

    __slots__ = (
        "_awaits_pong",
        "_context",
        "_nursery",
        "_queue",
        "_sending",
        "_transport",
        "_write",
        "client",
        "closing",
        "share",
        "way",
    )

    def __init__(self, context: SessionContext, transport: Transport, client: ClientAddress, way: str) -> None:
        self._context = context
        self._transport = transport
        #: What writes at once; None before the session runs, while something waits in the queue, and when it is closing.
        self._write: Callable[[Any], int] | None = None
        self._queue = SendQueue(context.limits)
        #: The session's nursery, while it is open.
        self._nursery: trio.Nursery | None = None
        self._sending = False
        #: The transport's heartbeat was sent, and no pong has come since.
        self._awaits_pong = False
        self.client = client
        self.way = way
        self.share = context.registry.client_limits.new_share()
        self.closing: Close | None = None

    @abstractmethod
    def close(self, close: Close) -> None:
        """End the session; the first reason wins. Returns at once."""

    @abstractmethod
    def _wake(self) -> None:
        """Start the session's task, if it has none since nothing was to be done; it has a nursery."""

    @abstractmethod
    def farewell(self, close: Close) -> Farewell:
        """Return what is sent to the client at the end of the session."""

    @abstractmethod
    def check_revoked(self, revocations: Revocations) -> None:
        """Close the session if its grant is revoked."""

    def offer(self, batch: Batch, *, paced: bool = False) -> None:
        """Write a batch, or queue what the socket does not take; a client beyond its limits is closed.

        Args:
            batch: Frames of this client's transport.
            paced: The caller has waited until little is queued, so the batch does not count against the limits.
        """
        write = self._write
        written = 0
        if write is not None:
            try:
                written = write(batch.chunk)
            except BlockingIOError:
                pass
            except OSError:
                self.close(Close.ABNORMAL_CLOSURE)
                return
            if written == batch.size:
                self._context.statistics.messages_sent += batch.count
                return
        self._enqueue(batch, written, paced)

    def _enqueue(self, batch: Batch, written: int, paced: bool) -> None:
        if self.closing is not None:
            return
        queue = self._queue
        is_first = not queue
        queue.push(batch, monotonic(), paced=paced)
        if is_first:
            queue.written = written
            self._write = None
            self._start_sending()
        overflow = queue.overflow()
        if overflow is not None:
            self.close(overflow)

    def heartbeat(self, now: float) -> bool:  # noqa: ARG002 - for those who note it
        """Send a heartbeat, unless something waits for the client anyway.

        Args:
            now: The time, in seconds of the monotonic clock.

        Returns:
            The client has to answer it, and `check_pong` will say whether it has.
        """
        heartbeat = self._transport.heartbeat()
        if heartbeat is not None and (self._write is not None or not self._queue):
            self._awaits_pong = True
            self.offer(heartbeat)
        return False

    def check_pong(self, asked_by: float) -> bool:  # noqa: ARG002 - transports look after their own heartbeats
        """Do nothing: the client need not answer."""
        return False

    def check_age(self, now: float) -> None:
        """Close the session if its client has not made progress for too long. `now` is the monotonic time in seconds."""
        expired = self._queue.expired(now)
        if expired is not None:
            self.close(expired)

    @property
    def framing(self) -> Framing:
        """How messages are framed on the client's connection."""
        return self._transport.framing

    @property
    def is_low(self) -> bool:
        """The client has read most of what waited for it."""
        return self._queue.is_low

    @property
    def waiting(self) -> int:
        """Messages that wait in the send queue."""
        return self._queue.count

    def report(self, now: float) -> QueueReport:
        """Return what waits for the client. `now` is the monotonic time in seconds."""
        return self._queue.report(now)

    @property
    def transport_name(self) -> str:
        """The metrics label of the transport."""
        return self._transport.name

    def abort(self) -> None:
        """Close the connection at once. The session's task ends by that."""
        self._transport.abort()

    def _begin_output(self) -> None:
        """The session's nursery is open: write what was offered before, and from here on at once."""
        if self._queue:
            self._start_sending()
        else:
            self._write = self._transport.write

    async def wait_low(self) -> None:
        """Wait until the client has read most of what waits for it. The heartbeat closes a session that makes no progress."""
        low = trio.Event()
        self._queue.call_when_low(low.set)
        await low.wait()

    def _start_sending(self) -> None:
        """Start the send loop. Before the nursery is open it starts with the nursery; after it has closed nothing is taken."""
        if self._nursery is None:
            self._wake()
        elif not self._sending:
            self._sending = True
            self._context.registry.backlogged[self] = None
            self._nursery.start_soon(self._send_loop)

    async def _send_loop(self) -> None:
        queue = self._queue
        try:
            await self._transport.drain(queue)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            self.close(Close.ABNORMAL_CLOSURE)
        except Exception:  # noqa: BLE001 - a bug in one session must not end the others
            _log.exception("sending failed", client=str(self.client))
            self.close(Close.INTERNAL_ERROR)
        finally:
            self._sending = False
            if not queue and self.closing is None:
                self._write = self._transport.write
            self._context.statistics.messages_sent += queue.delivered
            self._context.statistics.updates_coalesced += queue.coalesced
            queue.delivered = queue.coalesced = 0
            self._context.registry.backlogged.pop(self, None)

    async def _close_handshake(self) -> None:
        assert self.closing is not None
        deadline = trio.current_time() + self._context.settings.close_timeout
        with trio.CancelScope(shield=True, deadline=deadline):
            try:
                await self._transport.close(self._queue, self.closing, self.farewell(self.closing))
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # it hung up first
            except Exception:  # noqa: BLE001 - as in _send_loop
                _log.exception("closing handshake failed", client=str(self.client))
