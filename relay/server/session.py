"""One client: its nursery, its loops, its send queue, and how it ends.

A session is one task. It reads its client and executes what the protocol makes of that; the hub's batches are written the
moment they are offered, and only when the socket takes no more does a send loop start beside it, which ends when the queue is
empty. `Session.close` ends a session and never waits; the session's own task then sends the close frame and closes the
connection, within a deadline.

Answers, states and history are produced at the client's pace: while much waits for it, neither are they written nor is the
client read. Only live updates, which cannot be held back, count against the limits of the queue.
"""

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import structlog
import trio

from relay.core.batches import Batch, Framing
from relay.core.client_address import ClientAddress
from relay.core.client_budget import ClientBudget
from relay.core.client_subscriptions import EarlyUpdates
from relay.core.closecodes import Close
from relay.core.hub import Hub
from relay.core.revocations import Revocations
from relay.core.send_queue import SendQueue
from relay.protocols.base import ClientProtocol, Command, Subscribe
from relay.protocols.frames import ControlReply, Event, PeerClosed, Received, Violation
from relay.server.auth.authenticator import Entry
from relay.server.session_commands import SessionCommands
from relay.server.session_context import SessionContext
from relay.server.transports import Transport

_log = structlog.get_logger("relay.session")


def early_updates(hub: Hub, protocol: ClientProtocol) -> EarlyUpdates:
    """Keep what a client gets without asking, while its handshake is answered; see `Session.register`."""
    commands = [command for command in protocol.open() if isinstance(command, Subscribe)]
    return EarlyUpdates(hub, [command.channel for command in commands if not command.wants_history])


class Session:
    """A connected client. Run it with `run`, once; all else may be called from any task of the event loop.

    Attributes:
        client: The client's address.
        share: Its share of the limits of its address and its subject.
        closing: How the session ends; None while it is open.
    """

    __slots__ = (
        "_budget",
        "_commands",
        "_context",
        "_nursery",
        "_opening",
        "_protocol",
        "_queue",
        "_sending",
        "_transport",
        "_write",
        "client",
        "closing",
        "share",
    )

    def __init__(
        self,
        context: SessionContext,
        transport: Transport,
        protocol: ClientProtocol,
        client: ClientAddress,
        entry: Entry,
    ) -> None:
        """Make a session that has not begun.

        Args:
            context: What all sessions share.
            transport: The client's connection.
            protocol: What its messages mean.
            client: Its address.
            entry: Its credentials. Without any it has to send some, and nothing else is served before.
        """
        self._context = context
        self._transport = transport
        self._protocol = protocol
        #: What writes at once; None before the session runs, while something waits in the queue, and when it is closing.
        self._write: Callable[[Any], int] | None = None
        self._queue = SendQueue(context.limits)
        self._budget = ClientBudget(context.settings.max_subscriptions)
        self.share = context.registry.client_limits.new_share()
        self._commands = SessionCommands(context, protocol, self, entry, self._budget, self.share)
        self._nursery: trio.Nursery | None = None
        #: What remains to be done before the client's own messages; None before `register`.
        self._opening: list[Command] | None = None
        self._sending = False
        self.client = client
        self.closing: Close | None = None

    # What others do to a session: nothing here waits.

    def register(self, early: EarlyUpdates | None = None) -> None:
        """Subscribe the client to what it gets without asking, before its handshake is answered.

        What is published from here on reaches it; it is written when the session runs. Call `unregister` if it never will.

        Args:
            early: What came before, for a client whose handshake is answered before there is a session.
        """
        self._context.registry.add(self)
        self._opening = []
        try:
            self._opening = self._commands.open(early)
        except Exception:  # noqa: BLE001 - a bug in one session must not end the others
            _log.exception("session failed", client=str(self.client))
            self.close(Close.INTERNAL_ERROR)

    def unregister(self) -> None:
        """Undo `register`, for a handshake that failed."""
        self._commands.release()
        self._queue.clear()
        self._context.registry.remove(self)

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

    def close(self, close: Close) -> None:
        """End the session; the first reason wins. Returns at once: the closing handshake happens in the session's task."""
        if self.closing is not None:
            return
        self.closing = close
        self._write = None
        self._commands.end()
        self._context.registry.on_closing(self, close)
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    def heartbeat(self) -> None:
        """Send a heartbeat, unless something waits for the client anyway."""
        chunk = self._transport.heartbeat()
        if chunk is not None and not self._queue:
            self.offer(Batch(chunk, 0, len(chunk)))

    def check_age(self, now: float) -> None:
        """Close the session if its client has not made progress for too long. `now` is the monotonic time in seconds."""
        expired = self._queue.expired(now)
        if expired is not None:
            self.close(expired)

    def check_revoked(self, revocations: Revocations) -> None:
        """Close the session if its grant is revoked."""
        self._commands.check_revoked(revocations)

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

    @property
    def transport_name(self) -> str:
        """The metrics label of the transport."""
        return self._transport.name

    def abort(self) -> None:
        """Close the connection at once. The session's task ends by that."""
        self._transport.abort()

    # What the session's own task does.

    async def run(self, events: Sequence[Event] = ()) -> None:
        """Serve the client until it goes, is dropped, or this is cancelled; the connection is closed afterwards.

        Cancelled from outside, it closes with 1001. The closing handshake is shielded from cancellation, for `close_timeout`
        seconds at most.

        Args:
            events: What came from the client before the session began.
        """
        if self._opening is None:
            self.register()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if self.closing is None:
                    if self._queue:
                        self._start_sending()
                    else:
                        self._write = self._transport.write
                    await self._serve(events)
                nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            try:
                await self._close_handshake()
            finally:
                self._transport.abort()
                self._queue.clear()
                self._commands.release()
                self._context.registry.remove(self)

    async def _serve(self, events: Sequence[Event]) -> None:
        try:
            await self._commands.run(self._opening or ())
            await self._commands.enter()
            await self._handle(events)
            await self._receive_loop()
        except Exception:  # noqa: BLE001 - a bug in one session must not end the others
            _log.exception("session failed", client=str(self.client))
            self.close(Close.INTERNAL_ERROR)
        finally:
            # While the nursery is still open: nothing is offered from here on, for which a send loop would have to be started.
            self.close(Close.SHUTDOWN)

    async def _receive_loop(self) -> None:
        timeout = self._context.settings.message_timeout
        transport = self._transport
        size, frames = transport.bytes_received, transport.frames_received
        while self.closing is None:
            if self._budget.is_low:
                await self._context.take_turn()
            try:
                events = await transport.receive(timeout)
            except trio.TooSlowError:
                self.close(Close.MESSAGE_TIMEOUT)
                return
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                self.close(Close.ABNORMAL_CLOSURE)
                return
            new_bytes, size = transport.bytes_received - size, transport.bytes_received
            new_frames, frames = transport.frames_received - frames, transport.frames_received
            now = monotonic()
            verdict = self._budget.charge(now, new_frames, new_bytes, self.share.charge(now, new_frames))
            await self._handle(events)
            if isinstance(verdict, Close):
                self.close(verdict)
            elif verdict:
                await trio.sleep(verdict)  # it is not read meanwhile

    async def _handle(self, events: Sequence[Event]) -> None:
        for index, event in enumerate(events):
            if self.closing is not None:
                return
            if not self._queue.is_low:
                await self.wait_low()
            if isinstance(event, Received):
                await self._commands.run(self._protocol.receive(event.message))
            elif isinstance(event, ControlReply):
                following = events[index + 1] if index + 1 < len(events) else None
                if not isinstance(
                    following, ControlReply
                ):  # the last of several pings is answered (RFC 6455 section 5.5.3)
                    self.offer(Batch(event.frame, 0, len(event.frame)), paced=True)
            elif isinstance(event, Violation):
                self.close(event.close)
            elif isinstance(event, PeerClosed):
                self.close(Close.ABNORMAL_CLOSURE if event.code == 1006 else Close.NORMAL)

    async def wait_low(self) -> None:
        """Wait until the client has read most of what waits for it. The heartbeat closes a session that makes no progress."""
        low = trio.Event()
        self._queue.call_when_low(low.set)
        await low.wait()

    def _start_sending(self) -> None:
        """Start the send loop. Before the nursery is open it starts with the nursery; after it has closed nothing is taken."""
        if not self._sending and self._nursery is not None:
            self._sending = True
            self._context.registry.backlogged[self] = None
            self._nursery.start_soon(self._send_loop)

    async def _send_loop(self) -> None:
        queue = self._queue
        try:
            await self._transport.drain(queue)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            self.close(Close.ABNORMAL_CLOSURE)
        except Exception:  # noqa: BLE001 - as in _serve
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
                await self._transport.close(self._queue, self.closing)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # it hung up first
            except Exception:  # noqa: BLE001 - as in _serve
                _log.exception("closing handshake failed", client=str(self.client))
