"""One client: its nursery, its loops, and how it ends.

A session is one task. It reads its client; `relay.server.session_commands` executes what the protocol makes of that, and
`relay.server.session_output` writes. `Session.close` ends a session and never waits; the session's own task then sends the
close frame and closes the connection, within a deadline.

Answers, states and history are produced at the client's pace: while much waits for it, neither are they written nor is the
client read. Only live updates, which cannot be held back, count against the limits of the queue.
"""

from collections.abc import Sequence
from time import monotonic

import structlog
import trio

from relay.core.batches import Batch, batch_of, format_of
from relay.core.client_address import ClientAddress
from relay.core.client_budget import ClientBudget
from relay.core.client_orders import Order
from relay.core.client_subscriptions import EarlyUpdates
from relay.core.closecodes import Close
from relay.core.hub import Hub
from relay.core.revocations import Revocations
from relay.protocols.base import ClientProtocol, Command, End, Farewell, Reply, Subscribe
from relay.protocols.frames import ControlReply, Event, PeerClosed, Received, Violation
from relay.server.auth.authenticator import Entry
from relay.server.session_commands import SessionCommands
from relay.server.session_connection import REPLY_ENCODING
from relay.server.session_context import SessionContext
from relay.server.session_output import SessionOutput
from relay.server.transports import Transport

_log = structlog.get_logger("relay.session")


def early_updates(hub: Hub, protocol: ClientProtocol) -> EarlyUpdates:
    """Keep what a client gets without asking, while its handshake is answered; see `Session.register`."""
    commands = [command for command in protocol.open() if isinstance(command, Subscribe)]
    return EarlyUpdates(hub, [command.channel for command in commands if not command.wants_history])


class Session(SessionOutput):
    """A connected client. Run it with `run`, once; all else may be called from any task of the event loop."""

    __slots__ = ("_asked_at", "_budget", "_commands", "_opening", "_protocol")

    def __init__(
        self,
        context: SessionContext,
        transport: Transport,
        protocol: ClientProtocol,
        client: ClientAddress,
        entry: Entry,
        way: str,
    ) -> None:
        """Make a session that has not begun.

        Args:
            context: What all sessions share.
            transport: The client's connection.
            protocol: What its messages mean.
            client: Its address.
            entry: Its credentials. Without any it has to send some, and nothing else is served before.
            way: The path at which it connected.
        """
        super().__init__(context, transport, client, way)
        self._protocol = protocol
        self._budget = ClientBudget(context.settings.max_subscriptions)
        self._commands = SessionCommands(context, protocol, self, entry, self._budget)
        #: When the client was last asked whether it is there, in seconds of the monotonic clock.
        self._asked_at = 0.0
        #: What remains to be done before the client's own messages; None before `register`.
        self._opening: list[Command] | None = None

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
        self._commands.end()
        self._queue.clear()
        self._context.registry.remove(self)
        self._commands.release()

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

    def heartbeat(self, now: float) -> bool:
        """Send a heartbeat: that of the protocol, or that of the transport unless something waits for the client anyway."""
        match self._protocol.heartbeat():
            case Reply(payload):
                self._asked_at = now
                self.offer(batch_of([format_of(REPLY_ENCODING, self.framing).payload(payload)]), paced=True)
                return True
            case _:
                return super().heartbeat(now)

    def check_pong(self, asked_by: float) -> bool:
        """Close the session if its client has not answered a heartbeat that was sent by then.

        Returns:
            It is to be checked again: the heartbeat may not have reached the client, for which something waits.
        """
        match self._protocol.check_pong():
            case End(close) if self.closing is None and self._asked_at <= asked_by:
                if self._queue:
                    return True
                self.close(close)
        return False

    def give_order(self, order: Order) -> None:
        """Do what the server's API asks for, beside what the client itself asks for."""
        if self._nursery is not None and self.closing is None:
            self._nursery.start_soon(self._run_order, order)

    def farewell(self, close: Close) -> Farewell:
        """Return what is sent to the client at the end of the session."""
        retry_after = self._context.registry.returns.delay(trio.current_time()) if close is Close.SHUTDOWN else None
        return self._protocol.farewell(close, retry_after)

    def check_revoked(self, revocations: Revocations) -> None:
        """Close the session if its grant is revoked."""
        self._commands.check_revoked(revocations)

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
                    self._begin_output()
                    await self._serve(events)
                nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            try:
                await self._close_handshake()
            finally:
                self._transport.abort()
                self._queue.clear()
                self._context.registry.remove(self)
                self._commands.release()

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

    async def _run_order(self, order: Order) -> None:
        try:
            await self._commands.run(self._protocol.on_order(order))
        except Exception:  # noqa: BLE001 - as in _serve
            _log.exception("order failed", client=str(self.client))
            self.close(Close.INTERNAL_ERROR)

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
