"""One client: its nursery, its loops, its send queue, and how it ends.

A session is one task. It reads its client and executes what the protocol makes of that; the hub's batches are written the
moment they are offered, and only when the socket takes no more does a send loop start beside it, which ends when the queue is
empty. `Session.close` ends a session and never waits; the session's own task then sends the close frame and closes the
connection, within a deadline.

Answers, states and history are produced at the client's pace: while much waits for it, neither are they written nor is the
client read. Only live updates, which cannot be held back, count against the limits of the queue.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from time import monotonic
from typing import Any

import structlog
import trio

from relay.core.batches import Batch, Encoding, Format, Framing, batch_of
from relay.core.client_address import ClientAddress
from relay.core.client_budget import ClientBudget
from relay.core.client_subscriptions import EarlyUpdates, SubscriptionSet
from relay.core.closecodes import Close
from relay.core.errors import BrokerError
from relay.core.hub import Hub
from relay.core.send_queue import SendQueue
from relay.core.subscription import ReadHistory, Refuse, Request, Send
from relay.protocols.base import ClientProtocol, Command, End, Refusal, Reply, Subscribe, Unsubscribe
from relay.protocols.frames import ControlReply, Event, PeerClosed, Received, Violation
from relay.protocols.tasks import PLAIN
from relay.server.session_context import SessionContext
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


class Session:
    """A connected client. Run it with `run`, once; all else may be called from any task of the event loop.

    Attributes:
        client: The client's address.
        share: Its share of the limits of its address and its subject.
        closing: How the session ends; None while it is open.
    """

    __slots__ = (
        "_budget",
        "_context",
        "_errors",
        "_nursery",
        "_opening",
        "_protocol",
        "_queue",
        "_sending",
        "_subscriptions",
        "_transport",
        "_write",
        "client",
        "closing",
        "share",
    )

    def __init__(
        self, context: SessionContext, transport: Transport, protocol: ClientProtocol, client: ClientAddress
    ) -> None:
        self._context = context
        self._transport = transport
        self._protocol = protocol
        #: What writes at once; None before the session runs, while something waits in the queue, and when it is closing.
        self._write: Callable[[Any], int] | None = None
        self._queue = SendQueue(context.limits)
        self._subscriptions = SubscriptionSet(context.hub, self)
        self._budget = ClientBudget(context.settings.max_subscriptions)
        self._nursery: trio.Nursery | None = None
        #: What remains to be done before the client's own messages; None before `register`.
        self._opening: list[Command] | None = None
        self._sending = False
        self._errors = 0
        self.client = client
        self.share = context.registry.client_limits.new_share()
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
        self._subscriptions.close()
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

    async def _wait_low(self) -> None:
        """Wait until the client has read most of what waits for it. The heartbeat closes a session that makes no progress."""
        low = trio.Event()
        self._queue.call_when_low(low.set)
        await low.wait()

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
            self._refuse(self._protocol.refuse("too_many_subscriptions", reason))
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
                    self._send([self._protocol.refuse("unavailable", reason).payload])
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
