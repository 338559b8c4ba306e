"""One client: its nursery, its loops, and how it ends.

A session has a task while something is awaited for its client: a history, room in its queue, its turn, the end of its
connection. Between them it is parked: `relay.server.socket_watch` reports what the client sends, which is executed there and
then as far as that takes no waiting. `relay.server.session_commands` executes what the protocol makes of it, and
`relay.server.session_output` writes. `Session.close` ends a session and never waits; the session's own task then sends the
close frame and closes the connection, within a deadline.

Answers, states and history are produced at the client's pace: while much waits for it, neither are they written nor is the
client read. Only live updates, which cannot be held back, count against the limits of the queue.
"""

from collections.abc import Iterable, Sequence
from time import monotonic
from typing import NamedTuple

import structlog
import trio

from relay.core.batches import Batch, batch_of, format_of
from relay.core.client_address import ClientAddress
from relay.core.client_budget import ClientBudget
from relay.core.client_orders import Order
from relay.core.client_subscriptions import EarlyUpdates
from relay.core.closecodes import Close
from relay.core.revocations import Revocations
from relay.protocols.base import ClientProtocol, Command, End, Farewell, Reply
from relay.protocols.frames import ControlReply, Event, PeerClosed, Received, Violation
from relay.server.auth.authenticator import Entry
from relay.server.session_commands import SessionCommands
from relay.server.session_connection import REPLY_ENCODING
from relay.server.session_context import SessionContext
from relay.server.session_output import SessionOutput
from relay.server.transports import LONE_PONG, DirectReads, Transport

_log = structlog.get_logger("relay.session")


class Pause(NamedTuple):
    """The client has sent so much that it is not read for some seconds."""

    seconds: float


class Session(SessionOutput):
    """A connected client. Start it with `run` or with `begin`; all else may be called from any task of the event loop."""

    __slots__ = (
        "_asked_at", "_budget", "_commands", "_is_parked", "_opening", "_pending", "_protocol", "_watched_as",
    )  # fmt: skip

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
        #: What remains to be done before anything that the client sends; None before `register`.
        self._opening: Iterable[Command] | None = None
        #: What has come and is to be handled by the session's task, which was started for that.
        self._pending: list[Event | Order | Pause] | None = None
        #: There is no task, and none was started.
        self._is_parked = False
        #: The descriptor of the socket that is watched; None if none is.
        self._watched_as: int | None = None

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
        self._stop_watching()
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
        else:
            self._wake()

    def abort(self) -> None:
        """Close the connection at once. The session's task ends by that."""
        self._stop_watching()
        super().abort()
        if self._is_parked:
            self.close(Close.ABNORMAL_CLOSURE)

    def heartbeat(self, now: float) -> bool:
        """Send a heartbeat: that of the protocol, or that of the transport unless something waits for the client anyway."""
        command = self._protocol.heartbeat()
        if not isinstance(command, Reply):
            return super().heartbeat(now)
        self._asked_at = now
        self.offer(batch_of([format_of(REPLY_ENCODING, self.framing).payload(command.payload)]), paced=True)
        return True

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
        if self.closing is not None:
            return
        if self._nursery is not None:
            self._nursery.start_soon(self._run_order, order)
        else:
            self._wake([order])

    def farewell(self, close: Close) -> Farewell:
        """Return what is sent to the client at the end of the session."""
        retry_after = self._context.registry.returns.delay(trio.current_time()) if close is Close.SHUTDOWN else None
        return self._protocol.farewell(close, retry_after)

    def check_revoked(self, revocations: Revocations) -> None:
        """Close the session if its grant is revoked."""
        self._commands.check_revoked(revocations)

    # Between two tasks of its own.

    def begin(self, fileno: int, *, is_drained: bool) -> None:
        """Serve the client from here on, as `run` does, with a task only when one is needed. The session is registered.

        Args:
            fileno: The client's socket, for which the session is notified by the watch.
            is_drained: Nothing can have come that the watch does not report.
        """
        self._watched_as = fileno
        self._is_parked = True
        is_idle = is_drained and not (self._queue or self._opening or self._commands.has_to_enter)
        if not is_idle or self.closing is not None:
            self._wake()
        else:
            self._begin_output()

    def on_readable(self, *, is_last: bool) -> None:
        """Read what the client has sent, unless the session's task does."""
        if not self._is_parked:
            return
        if is_last or self._budget.is_low:
            self._wake()
            return
        try:
            self._read_at_once()
        except Exception:  # noqa: BLE001 - a bug in one session must not end the others
            _log.exception("session failed", client=str(self.client))
            self.close(Close.INTERNAL_ERROR)

    def _read_at_once(self) -> None:
        """Read once, and do at once what needs no waiting; what is left is for a task."""
        transport, direct = self._transport, self._transport.direct
        assert direct is not None
        size, frames = transport.bytes_received, transport.frames_received
        received = direct.receive_now()
        if received is None:
            return
        if received is LONE_PONG and self._awaits_pong:
            self._awaits_pong = False  # further ones are the client's own idea, and charged
            return
        events = [*received, *self._charge(size, frames)]
        for index, event in enumerate(events):
            rest = None if isinstance(event, Pause) else self._commands.run_at_once(self._react(events, index))
            if rest is not None or isinstance(event, Pause) or not self._is_parked:
                self._opening = rest or ()
                self._wake(events[index + (not isinstance(event, Pause)) :])
                return
        if direct.may_have_more:
            self._wake()

    def on_watch_ended(self) -> None:
        """Close the session: the relay stops."""
        if self._is_parked:
            self.close(Close.SHUTDOWN)

    def _wake(self, pending: Iterable[Event | Order | Pause] = ()) -> None:
        """Start the session's task, unless it has one.

        Args:
            pending: What it is to handle first.
        """
        if more := list(pending):
            self._pending = [*(self._pending or ()), *more]
        if self._is_parked:
            self._is_parked = False
            try:
                self._context.registry.start(self.run)
            except trio.RunFinishedError:
                self.unregister()
                self._transport.abort()

    def _park(self, direct: DirectReads) -> None:
        """Leave the client to the watch: there is nothing to be read."""
        watch = self._context.watch
        if self._watched_as is None and watch is not None:
            watch.add(fileno := direct.fileno(), self)
            self._watched_as = fileno
        self._nursery = None
        self._is_parked = True

    def _stop_watching(self) -> None:
        watch = self._context.watch
        if watch is not None and self._watched_as is not None:
            watch.remove(self._watched_as, self)

    def _reads_for_parking(self) -> DirectReads | None:
        """Return how to read the client if nothing is left for the session's task but that, and it can be left to the watch."""
        watch, nursery, direct = self._context.watch, self._nursery, self._transport.direct
        if watch is None or nursery is None or direct is None:
            return None
        return direct if watch.is_open and not nursery.child_tasks and not direct.in_message else None

    # What the session's own task does.

    async def run(self, events: Sequence[Event] = ()) -> None:
        """Serve the client until it goes, is dropped, or this is cancelled; the connection is closed afterwards.

        It returns early when the session is parked, and is called again by the session itself.

        Cancelled from outside, it closes with 1001. The closing handshake is shielded from cancellation, for `close_timeout`
        seconds at most.

        Args:
            events: What came from the client before the session began.
        """
        if self._opening is None:
            self.register()
        if events:
            self._pending = [*events, *(self._pending or ())]
        is_parked = False
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if self.closing is None:
                    self._begin_output()
                    is_parked = await self._serve()
                if not is_parked:
                    nursery.cancel_scope.cancel()
        finally:
            if not is_parked:  # else it is no longer this task's, and may have another one already
                await self._end()

    async def _end(self) -> None:
        self._nursery = None
        self._stop_watching()
        try:
            await self._close_handshake()
        finally:
            self._transport.abort()
            self._queue.clear()
            self._context.registry.remove(self)
            self._commands.release()

    async def _serve(self) -> bool:
        """Serve the client until it is closed, or nothing is left but to read it.

        Returns:
            The session was parked.
        """
        is_parked = False
        try:
            opening, self._opening = self._opening or (), ()
            await self._commands.run(opening)
            await self._commands.enter()
            pending, self._pending = self._pending or (), None
            await self._handle(pending)
            is_parked = await self._receive_loop()
        except Exception:  # noqa: BLE001 - a bug in one session must not end the others
            _log.exception("session failed", client=str(self.client))
            self.close(Close.INTERNAL_ERROR)
        finally:
            # While the nursery is still open: nothing is offered from here on, for which a send loop would have to be started.
            if not is_parked:
                self.close(Close.SHUTDOWN)
        return is_parked

    async def _run_order(self, order: Order) -> None:
        try:
            await self._commands.run(self._protocol.on_order(order))
        except Exception:  # noqa: BLE001 - as in _serve
            _log.exception("order failed", client=str(self.client))
            self.close(Close.INTERNAL_ERROR)

    async def _receive_loop(self) -> bool:
        """Read the client until it is closed, or nothing is left but to wait for it; returns whether that is so."""
        timeout = self._context.settings.message_timeout
        transport = self._transport
        while self.closing is None:
            if self._budget.is_low:
                await self._context.take_turn()
            size, frames = transport.bytes_received, transport.frames_received
            direct = self._reads_for_parking()
            try:
                events = await transport.receive(timeout) if direct is None else direct.receive_now()
            except trio.TooSlowError:
                self.close(Close.MESSAGE_TIMEOUT)
                return False
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                self.close(Close.ABNORMAL_CLOSURE)
                return False
            if direct is not None and events is None:
                self._park(direct)
                return True
            await self._handle([*(events or ()), *self._charge(size, frames)])
            if direct is not None:
                await trio.lowlevel.checkpoint()
        return False

    def _charge(self, size: int, frames: int) -> Sequence[Violation | Pause]:
        """Charge the client for what has come from it since it had sent so many bytes and frames; returns what follows."""
        now = monotonic()
        new_bytes, new_frames = self._transport.bytes_received - size, self._transport.frames_received - frames
        verdict = self._budget.charge(now, new_frames, new_bytes, self.share.charge(now, new_frames))
        if isinstance(verdict, Close):
            return (Violation(verdict),)
        return (Pause(verdict),) if verdict else ()

    async def _handle(self, events: Sequence[Event | Order | Pause]) -> None:
        for index, event in enumerate(events):
            if self.closing is not None:
                return
            if not self._queue.is_low:
                await self.wait_low()
            if isinstance(event, Pause):
                await trio.sleep(event.seconds)  # it is not read meanwhile
            else:
                await self._commands.run(self._react(events, index))

    def _react(self, events: Sequence[Event | Order | Pause], index: int) -> Iterable[Command]:
        """Do what one of several events comes to, as far as that is not for the protocol's commands, which are returned."""
        event = events[index]
        if isinstance(event, Received):
            return self._protocol.receive(event.message)
        if isinstance(event, ControlReply):
            following = events[index + 1] if index + 1 < len(events) else None
            if not isinstance(
                following, ControlReply
            ):  # the last of several pings is answered (RFC 6455 section 5.5.3)
                self.offer(Batch(event.frame, 0, len(event.frame)), paced=True)
        elif isinstance(event, Violation):
            self.close(event.close)
        elif isinstance(event, PeerClosed):
            self.close(Close.ABNORMAL_CLOSURE if event.code == 1006 else Close.NORMAL)
        elif isinstance(event, Order):
            self.give_order(event)
        return ()
