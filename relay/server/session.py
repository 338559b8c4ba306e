"""One client: its nursery, its loops, and how it ends. `relay.server.session_output` has its writing half.

A session is one task. It reads its client and executes what the protocol makes of that. `Session.close` ends a session and
never waits; the session's own task then sends the close frame and closes the connection, within a deadline.

Answers, states and history are produced at the client's pace: while much waits for it, neither are they written nor is the
client read. Only live updates, which cannot be held back, count against the limits of the queue.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from time import monotonic

import structlog
import trio

from relay.core.batches import Batch, Encoding, Format, Framing, batch_of
from relay.core.client_address import ClientAddress
from relay.core.client_budget import ClientBudget
from relay.core.client_subscriptions import EarlyUpdates, SubscriptionSet
from relay.core.closecodes import Close
from relay.core.errors import BrokerError
from relay.core.hub import Hub
from relay.core.subscription import ReadHistory, Refuse, Request, Send
from relay.protocols.base import ClientProtocol, Command, End, Refusal, Reply, Subscribe, Unsubscribe
from relay.protocols.frames import ControlReply, Event, PeerClosed, Received, Violation
from relay.protocols.tasks import PLAIN
from relay.server.session_context import SessionContext
from relay.server.session_output import SessionOutput
from relay.server.transports import Transport

_log = structlog.get_logger("relay.session")

#: Encodes what is sent to one client alone and carries no update.
REPLY_ENCODING = PLAIN


@cache
def format_of(encoding: Encoding, framing: Framing) -> Format:
    """Return the one format of a shared encoding in a framing."""
    return Format(encoding, framing)


def _request(command: Subscribe, format: Format) -> Request:
    return Request(
        command.channel, format, command.answer, command.since, command.wants_history, command.requires_position
    )


def early_updates(hub: Hub, protocol: ClientProtocol) -> EarlyUpdates:
    """Keep what a client gets without asking, while its handshake is answered; see `Session.register`."""
    commands = [command for command in protocol.open() if isinstance(command, Subscribe)]
    return EarlyUpdates(hub, [command.channel for command in commands if not command.wants_history])


#: Seconds after which a history is read again whose first part was sent.
_READ_AGAIN = 0.5


class Session(SessionOutput):
    """A connected client. Run it with `run`, once; all else may be called from any task of the event loop."""

    __slots__ = ("_budget", "_errors", "_opening", "_protocol", "_subscriptions")

    def __init__(
        self, context: SessionContext, transport: Transport, protocol: ClientProtocol, client: ClientAddress
    ) -> None:
        super().__init__(context, transport, client)
        self._protocol = protocol
        self._subscriptions = SubscriptionSet(context.hub, self)
        self._budget = ClientBudget(context.settings.max_subscriptions)
        #: What remains to be done before the client's own messages; None before `register`.
        self._opening: list[Command] | None = None
        self._errors = 0

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
            for command in self._protocol.open():
                if isinstance(command, Subscribe) and not command.wants_history:
                    format = self._format(command.encoding)
                    updates = early.take(command.channel) if early is not None else []
                    if updates:
                        self.offer(format.batch(updates))
                    self._subscribe_now(command, format)
                else:
                    self._opening.append(command)
        except Exception:  # noqa: BLE001 - a bug in one session must not end the others
            _log.exception("session failed", client=str(self.client))
            self.close(Close.INTERNAL_ERROR)

    def unregister(self) -> None:
        """Undo `register`, for a handshake that failed."""
        self._subscriptions.close()
        self._queue.clear()
        self._context.registry.remove(self)

    def close(self, close: Close) -> None:
        """End the session; the first reason wins. Returns at once: the closing handshake happens in the session's task."""
        if self.closing is not None:
            return
        self.closing = close
        self._write = None
        self._subscriptions.close()
        self._context.registry.on_closing(self, close)
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

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

    async def _serve(self, events: Sequence[Event]) -> None:
        try:
            for command in self._opening or ():
                await self._execute(command)
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
                await self._take_turn()
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
                await self._wait_low()
            if isinstance(event, Received):
                for command in self._protocol.receive(event.message):
                    await self._execute(command)
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

    async def _take_turn(self) -> None:
        """Wait for a turn among the clients that cause much work.

        One of them goes on in each turn of the event loop, so that all of them together delay nobody else.
        """
        async with self._context.turnstile:
            await trio.lowlevel.checkpoint()

    async def _execute(self, command: Command) -> None:
        match command:
            case Subscribe():
                await self._subscribe(command)
            case Unsubscribe(channel, payload):
                self._subscriptions.end(channel)
                self.share.resize(len(self._subscriptions))
                self._send([payload])
            case Reply(payload):
                self._send([payload])
            case Refusal():
                self._refuse(command)
            case End(close):
                self.close(close)

    async def _subscribe(self, command: Subscribe) -> None:
        channel = command.channel
        subscriptions = self._subscriptions
        format = self._format(command.encoding)
        if channel not in subscriptions and (reason := self._why_no_room()) is not None:
            self._refuse(self._protocol.refuse("too_many_subscriptions", reason, channel))
            return
        if subscriptions.has(channel, format) and not command.requires_position:
            self._send(command.answer(None))  # answered twice, delivered once
            return
        if not command.wants_history:
            self._subscribe_now(command, format)
            return
        delay = self._budget.charge_subscribe(monotonic())
        if delay:
            await trio.sleep(delay)
        subscription = subscriptions.start(_request(command, format))
        while subscription is not None:
            if subscription.has_page and not self._queue.is_low:
                await self._wait_low()
            match subscription.next_effect():
                case ReadHistory(since):
                    try:
                        subscription.on_history(await self._context.load_history(channel, since))
                    except BrokerError as error:
                        if subscription.on_unavailable(error.public_message):
                            await trio.sleep(_READ_AGAIN)
                case Send(batch, result):
                    if result is not None:
                        self._context.statistics.on_recovery(result.recovered)
                    if batch.count:
                        self.offer(batch, paced=True)
                    if subscription.has_page:
                        await self._take_turn()
                case Refuse(reason):
                    # Redis is away, which is no mistake of the client's.
                    subscriptions.discard(subscription)
                    self._send([self._protocol.refuse("unavailable", reason, channel).payload])
                case None:
                    return

    def _why_no_room(self) -> str | None:
        """Return why the client may have no further subscription; None when it may, which is counted then."""
        count, limit = len(self._subscriptions), self._context.settings.max_subscriptions
        if count >= limit:
            return f"this connection has {limit} subscriptions, the limit; unsubscribe from some"
        self.share.resize(count)
        if not self.share.has_room(count + 1):
            return "all connections of this address or user have too many subscriptions together; unsubscribe from some"
        self.share.resize(count + 1)
        return None

    def _subscribe_now(self, command: Subscribe, format: Format) -> None:
        subscription = self._subscriptions.start(_request(command, format))
        while subscription is not None and isinstance(effect := subscription.next_effect(), Send):
            self.offer(effect.batch, paced=True)

    def _refuse(self, refusal: Refusal) -> None:
        self._context.statistics.on_invalid_message(refusal.code)
        self._send([refusal.payload])
        self._errors += refusal.counts
        if self._errors >= self._context.settings.max_client_errors:
            self.close(Close.TOO_MANY_ERRORS)

    def _send(self, payloads: Iterable[bytes]) -> None:
        format = self._format(REPLY_ENCODING)
        messages = [format.payload(payload) for payload in payloads]
        if messages:
            self.offer(batch_of(messages), paced=True)

    def _format(self, encoding: Encoding) -> Format:
        """Return the format of an encoding on this client's transport: one instance for all that share the encoding."""
        if encoding.stateful:
            return Format(encoding, self._transport.framing)
        return format_of(encoding, self._transport.framing)
