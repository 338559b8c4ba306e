"""One client: its nursery, its loops, its outbox, and how it ends.

A session is one task. It reads its client and obeys; the hub's batches are written the moment they are offered, and only
when the socket takes no more does a send loop start beside it, which ends when the outbox is empty. Whoever wants a
session gone calls `Session.close`, which never waits; the session's own task then says goodbye and closes the
connection, within a deadline.
"""

from collections.abc import Sequence
from functools import cache
from time import monotonic

import structlog
import trio

from relay.core.closecodes import Close
from relay.core.errors import BrokerError
from relay.core.hub import Hub
from relay.core.outbox import Batch, Encoding, Format, Framing, Outbox, batch_of
from relay.core.recovery import Joining
from relay.protocols.base import ClientProtocol, Command, End, Refusal, Reply, Subscribe, Unsubscribe
from relay.protocols.frames import ControlReply, Event, PeerClosed, Received, Violation
from relay.protocols.tasks import PLAIN
from relay.server.session_context import SessionContext
from relay.server.transports import Transport

_log = structlog.get_logger("relay.session")

#: Channels that a client may join in a second, on and on; as many as it may follow at a time it may join at once.
JOIN_RATE = 50.0

#: For what is said to one client alone, and is no update.
_WORDS = PLAIN


@cache
def format_of(encoding: Encoding, framing: Framing) -> Format:
    """The one format of a shared encoding in a framing."""
    return Format(encoding, framing)


class Session:
    """A connected client. Run it with `run`, once; all else may be called from any task of the loop."""

    __slots__ = (
        "_context",
        "_errors",
        "_hub",
        "_joinings",
        "_joins_paced",
        "_nursery",
        "_outbox",
        "_protocol",
        "_sending",
        "_subscriptions",
        "_transport",
        "_write",
        "closing",
        "peer",
    )

    def __init__(self, context: SessionContext, transport: Transport, protocol: ClientProtocol, peer: str) -> None:
        self._context = context
        self._hub: Hub = context.hub
        self._transport = transport
        self._protocol = protocol
        #: What writes at once; None while something waits in the outbox, and when the session is closing.
        self._write = transport.write
        self._outbox = Outbox(context.bounds)
        self._nursery: trio.Nursery | None = None
        self._subscriptions: dict[str, Format] = {}
        self._joinings: dict[str, Joining] = {}
        self._sending = False
        self._joins_paced = float("-inf")
        self._errors = 0
        self.peer = peer
        self.closing: Close | None = None

    # What others do to a session: nothing here waits.

    def offer(self, batch: Batch) -> None:
        """Write a batch, or queue what the socket does not take; a client past its bounds is closed."""
        write = self._write
        written = 0
        if write is not None:
            try:
                written = write(batch.chunk)
            except BlockingIOError:
                pass
            except OSError:
                self.close(Close.GONE)
                return
            if written == batch.size:
                self._context.statistics.messages_sent += batch.count
                return
        self._enqueue(batch, written)

    def _enqueue(self, batch: Batch, written: int) -> None:
        if self.closing is not None:
            return
        outbox = self._outbox
        is_first = not outbox
        outbox.push(batch, monotonic())
        if is_first:
            outbox.written = written
            self._write = None
            self._start_sending()
        overflow = outbox.overflow()
        if overflow is not None:
            self.close(overflow)

    def close(self, close: Close) -> None:
        """End the session this way; the first reason wins. Returns at once, the goodbye happens in the session's task."""
        if self.closing is not None:
            return
        self.closing = close
        self._write = None
        self._leave()
        self._context.registry.on_closing(self, close)
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    def heartbeat(self) -> None:
        """Send a heartbeat, unless something is under way to the client anyhow."""
        chunk = self._transport.heartbeat()
        if chunk is not None and not self._outbox:
            self.offer(Batch(chunk, 0, len(chunk)))

    def check_age(self, now: float) -> None:
        """Close the session when something has waited too long in its outbox."""
        overdue = self._outbox.overdue(now)
        if overdue is not None:
            self.close(overdue)

    @property
    def waiting(self) -> int:
        """Messages that wait in the outbox."""
        return self._outbox.count

    @property
    def transport_name(self) -> str:
        """How the client is reached: "hijacked" or "asgi"."""
        return self._transport.name

    def abort(self) -> None:
        """Close the connection under whatever waits for it. The session's task ends by that."""
        self._transport.abort()

    # What the session's own task does.

    async def run(self, events: Sequence[Event] = ()) -> None:
        """Serve the client until it goes, is dropped, or this is cancelled; the connection is closed afterwards.

        events: what came from the client before the session began. Cancelled from outside, it closes with 1001. The
        goodbye is shielded from cancellation, for `close_timeout` seconds at most.
        """
        self._context.registry.add(self)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if self.closing is None:
                    await self._serve(events)
                nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            try:
                await self._say_goodbye()
            finally:
                self._transport.abort()
                self._outbox.clear()
                self._context.registry.remove(self)

    async def _serve(self, events: Sequence[Event]) -> None:
        try:
            for command in self._protocol.open():
                await self._obey(command)
            await self._handle(events)
            await self._receive_loop()
        except Exception:  # noqa: BLE001 - a bug in one session must not end the others
            _log.exception("session failed", client=self.peer)
            self.close(Close.INTERNAL_ERROR)
        finally:
            # While the nursery is still open: nothing is offered from here on, for which a send loop would have to be started.
            self.close(Close.SHUTDOWN)

    async def _receive_loop(self) -> None:
        timeout = self._context.settings.message_timeout
        while self.closing is None:
            try:
                events = await self._transport.receive(timeout)
            except trio.TooSlowError:
                self.close(Close.HALF_MESSAGE)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                self.close(Close.GONE)
            else:
                await self._handle(events)

    async def _handle(self, events: Sequence[Event]) -> None:
        for event in events:
            if self.closing is not None:
                return
            if isinstance(event, Received):
                for command in self._protocol.receive(event.message):
                    await self._obey(command)
            elif isinstance(event, ControlReply):
                self.offer(Batch(event.frame, 0, len(event.frame)))
            elif isinstance(event, Violation):
                self.close(event.close)
            elif isinstance(event, PeerClosed):
                self.close(Close.GONE if event.code == 1006 else Close.NORMAL)

    async def _obey(self, command: Command) -> None:
        match command:
            case Subscribe():
                await self._subscribe(command)
            case Unsubscribe(channel, payload):
                self._unsubscribe(channel)
                self._send(payload)
            case Reply(payload):
                self._send(payload)
            case Refusal():
                self._refuse(command)
            case End(close):
                self.close(close)

    async def _subscribe(self, command: Subscribe) -> None:
        channel = command.channel
        format = self._format(command.encoding)
        limit = self._context.settings.max_subscriptions
        if channel not in self._subscriptions and len(self._subscriptions) >= limit:
            refusal = f"this connection follows {limit} channels, the limit; unsubscribe from some"
            self._refuse(self._protocol.refuse("too_many_subscriptions", refusal))
        elif self._subscriptions.get(channel) is format and not command.requires_position:
            self._send(*command.answer(None))  # answered twice, delivered once
        elif command.wants_history:
            await self._pace(limit)
            self._unsubscribe(channel)
            await self._join(command, format)
        else:
            self._unsubscribe(channel)
            self._send(*command.answer(None))
            self._follow(channel, format)

    def _follow(self, channel: str, format: Format, *, blind: bool = False) -> None:
        if self.closing is None:
            self._subscriptions[channel] = format
            self._hub.subscribe(self, channel, format, blind=blind)

    def _unsubscribe(self, channel: str) -> None:
        waiting = self._joinings.pop(channel, None)
        if waiting is not None:
            self._hub.leave(channel, waiting)
        format = self._subscriptions.pop(channel, None)
        if format is not None:
            self._hub.unsubscribe(self, channel, format)

    async def _pace(self, burst: int) -> None:
        """Whoever joins channels again and again has to wait, and is not heard meanwhile: Redis keeps each name for a while."""
        now = monotonic()
        self._joins_paced = max(self._joins_paced, now - burst / JOIN_RATE) + 1 / JOIN_RATE
        if self._joins_paced > now:
            await trio.sleep(self._joins_paced - now)

    async def _join(self, command: Subscribe, format: Format) -> None:
        """Follow a channel from its past on: what is live is gathered first, then the past is read, then both are merged."""
        channel = command.channel
        joining = Joining(command.since)
        self._hub.join(channel, joining, lambda: self._settle(channel, joining, format))
        self._joinings[channel] = joining
        self._subscriptions[channel] = format
        try:
            snapshot = await self._context.load_history(channel, joining)
        except BrokerError as error:
            self._unsubscribe(channel)
            if command.requires_position:
                reason = f"positions are not available now ({error}); subscribe again"
                # Redis is away, which is no mistake of the client's.
                self._send(self._protocol.refuse("unavailable", reason).payload)
            else:
                self._send(*command.answer(None))
                self._follow(channel, format, blind=True)
            return
        if self.closing is not None:
            return
        welcome = joining.welcome(snapshot)
        self._context.statistics.on_recovery(welcome.recovered)
        messages = [format.payload(payload) for payload in command.answer(welcome)]
        messages += [format.message(update) for update in welcome.updates]
        if messages:
            self.offer(batch_of(messages))
        if joining.is_ready_at(self._hub.position(channel)):
            self._settle(channel, joining, format)

    def _settle(self, channel: str, joining: Joining, format: Format) -> None:
        """What is live has come as far as the welcome: give the client the rest, and let it follow like all others."""
        if self._joinings.get(channel) is not joining or self.closing is not None:
            return
        rest = joining.rest()
        if rest:
            self.offer(batch_of([format.message(update) for update in rest]))
        # A client that was closed for what it was offered has left the hub as well.
        if self.closing is None:
            del self._joinings[channel]
            self._hub.settle(self, channel, joining, format)

    def _refuse(self, refusal: Refusal) -> None:
        self._context.statistics.on_invalid_message(refusal.code)
        self._send(refusal.payload)
        self._errors += 1
        if self._errors >= self._context.settings.max_client_errors:
            self.close(Close.TOO_MANY_ERRORS)

    def _send(self, *payloads: bytes) -> None:
        if payloads:
            format = self._format(_WORDS)
            self.offer(batch_of([format.payload(payload) for payload in payloads]))

    def _format(self, encoding: Encoding) -> Format:
        """The format of an encoding on this client's transport; one instance for all who share the encoding."""
        if encoding.stateful:
            return Format(encoding, self._transport.framing)
        return format_of(encoding, self._transport.framing)

    def _start_sending(self) -> None:
        """Start the send loop. Before the nursery is open nothing is offered, and after it has closed nothing is taken."""
        if not self._sending and self._nursery is not None:
            self._sending = True
            self._context.registry.backlogged[self] = None
            self._nursery.start_soon(self._send_loop)

    async def _send_loop(self) -> None:
        try:
            await self._transport.drain(self._outbox)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            self.close(Close.GONE)
        except Exception:  # noqa: BLE001 - as in _serve
            _log.exception("sending failed", client=self.peer)
            self.close(Close.INTERNAL_ERROR)
        finally:
            self._sending = False
            if not self._outbox and self.closing is None:
                self._write = self._transport.write
            self._context.statistics.messages_sent += self._outbox.delivered
            self._context.statistics.updates_coalesced += self._outbox.folded
            self._outbox.delivered = self._outbox.folded = 0
            self._context.registry.backlogged.pop(self, None)

    def _leave(self) -> None:
        for channel in [*self._subscriptions]:
            self._unsubscribe(channel)

    async def _say_goodbye(self) -> None:
        assert self.closing is not None
        deadline = trio.current_time() + self._context.settings.close_timeout
        with trio.CancelScope(shield=True, deadline=deadline):
            try:
                await self._transport.close(self._outbox, self.closing)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # it hung up first: nobody is left to say goodbye to
            except Exception:  # noqa: BLE001 - as above
                _log.exception("closing handshake failed", client=self.peer)
