"""What a client's messages do: its subscriptions and its grant. `relay.server.session` is the connection that they come on."""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Protocol

import trio

from relay.core.batches import Batch, Encoding, Format, Framing, batch_of, format_of
from relay.core.client_budget import ClientBudget
from relay.core.client_limits import ClientShare
from relay.core.client_subscriptions import EarlyUpdates, SubscriptionSet
from relay.core.closecodes import Close
from relay.core.errors import BrokerError, Forbidden, Unauthenticated, Unverified
from relay.core.families import NO_FAMILIES
from relay.core.grants import Decision, Grant
from relay.core.groups import Listener
from relay.core.recovery import Snapshot
from relay.core.revocations import Revocations
from relay.core.subscription import ReadHistory, Refuse, Request, Send
from relay.core.updates import Position
from relay.protocols.base import Authenticate, ClientProtocol, Command, End, Refusal, Reply, Subscribe, Unsubscribe
from relay.protocols.tasks import PLAIN
from relay.server.auth.authenticator import Entry, FindGrant
from relay.server.session_access import SessionAccess
from relay.server.session_context import SessionContext

#: Encodes what is sent to one client alone and carries no update.
REPLY_ENCODING = PLAIN

#: Seconds after which a history is read again whose first part was sent.
_READ_AGAIN = 0.5

_NO_TOKEN = Unauthenticated(
    "unauthenticated", 'send {"type":"authenticate","token":...} before anything else', Close.UNAUTHENTICATED
)


def _request(command: Subscribe, format: Format, *, needs_owner: bool = False) -> Request:
    # A task that only its owner may follow is refused while Redis is away, since nobody can say then who owns it.
    is_refused_without_redis = command.requires_position or needs_owner
    return Request(
        command.channel, format, command.answer, command.since, command.wants_history, is_refused_without_redis
    )


class Connection(Listener, Protocol):
    """The connection of a client, as its commands see it."""

    @property
    def framing(self) -> Framing:
        """How messages are framed."""

    @property
    def share(self) -> ClientShare:
        """The client's share of the limits of its address and its subject."""

    @property
    def is_low(self) -> bool:
        """The client has read most of what waited for it."""

    def offer(self, batch: Batch, *, paced: bool = False) -> None:
        """Write a batch, or queue what the socket does not take."""

    def close(self, close: Close) -> None:
        """End the session this way. Returns at once."""

    async def wait_low(self) -> None:
        """Wait until `is_low`."""


class SessionCommands:
    """Executes what a client asks for, one command after the other.

    Args:
        context: What all sessions share.
        protocol: What the client's messages mean.
        connection: Its connection.
        entry: Its credentials. Without any it has to send some, and nothing else is served before.
        budget: What it may ask for.
    """

    __slots__ = ("_access", "_budget", "_connection", "_context", "_entry", "_errors", "_protocol", "_subscriptions")

    def __init__(
        self,
        context: SessionContext,
        protocol: ClientProtocol,
        connection: Connection,
        entry: Entry,
        budget: ClientBudget,
    ) -> None:
        self._context = context
        self._protocol = protocol
        self._connection = connection
        self._entry = entry
        self._budget = budget
        self._access = SessionAccess(context, self)
        self._subscriptions = SubscriptionSet(context.hub, connection)
        self._errors = 0

    # What others do: nothing here waits.

    def open(self, early: EarlyUpdates | None = None) -> list[Command]:
        """Subscribe the client to what it gets without asking, as far as its grant is known and allows it.

        Args:
            early: What came before.

        Returns:
            What else it begins with; to be executed.
        """
        if not isinstance(self._entry, Grant):
            self._access.start()
            return []
        return self._open(early) if self._begin(self._entry) else []

    def _begin(self, grant: Grant) -> bool:
        """Give the client its first grant, or close it, when its subject has too many clients."""
        if not self._joins_subject(grant):
            return False
        self._access.set_grant(grant)
        return True

    def _joins_subject(self, grant: Grant) -> bool:
        limits = self._context.registry.client_limits
        if limits.join_subject(self._connection.share, grant.subject, monotonic()):
            return True
        self.close(Close.CLIENT_LIMIT)
        return False

    def _open(self, early: EarlyUpdates | None = None) -> list[Command]:
        opening: list[Command] = []
        for command in self._protocol.open():
            if not isinstance(command, Subscribe) or command.wants_history:
                opening.append(command)
            elif self._access.decide(command.channel) is Decision.ALLOWED:
                format = self._format(command.encoding)
                updates = early.take(command.channel) if early is not None else []
                if updates:
                    self._connection.offer(format.batch(updates))
                self._subscribe_now(command, format)
        return opening

    def end(self) -> None:
        """Leave all channels, and forget the grant, for good."""
        self._subscriptions.close()
        self._access.end()

    def release(self) -> None:
        """Drop what refers back to the session, after its end: a cycle would keep it in memory. Nothing can be called then."""
        self._access.release()
        del self._connection, self._subscriptions

    def close(self, close: Close) -> None:
        """End the session this way."""
        self._connection.close(close)

    def check_revoked(self, revocations: Revocations) -> None:
        """Close the session if its grant is revoked."""
        self._access.check_revoked(revocations)

    def on_expiry_notice(self, seconds: float) -> None:
        """Notify the client that its grant ends in so many seconds."""
        self._send([self._protocol.expiry_notice(seconds)])

    def on_forbidden(self, channel: str) -> None:
        """End the subscription to a channel that the client may not follow any longer."""
        self._end_subscription(channel, Forbidden.code, Forbidden.message)

    # What the session's own task does.

    async def enter(self) -> None:
        """Find out the grant of a client whose credentials have to be checked first, and begin to serve it, or close it."""
        entry, self._entry = self._entry, None
        if isinstance(entry, Unauthenticated):
            self._reject(entry)
        elif entry is not None and not isinstance(entry, Grant):
            await self.run(await self._find_first_grant(entry))

    async def run(self, commands: Iterable[Command]) -> None:
        """Execute commands in order."""
        for command in commands:
            await self._execute(command)

    async def _execute(self, command: Command) -> None:
        if not self._access.is_granted and not isinstance(command, Authenticate | End):
            self._reject(_NO_TOKEN)
            return
        match command:
            case Authenticate():
                await self._authenticate(command)
            case Subscribe():
                await self._subscribe(command)
            case Unsubscribe(channel, payload):
                self._subscriptions.end(channel)
                self._access.forget(channel)
                self._connection.share.resize(len(self._subscriptions))
                self._send([payload])
            case Reply(payload):
                self._send([payload])
            case Refusal():
                self._refuse(command)
            case End(close):
                self.close(close)

    # Grants.

    async def _find_first_grant(
        self, find: FindGrant, answer: Callable[[float | None], bytes] | None = None
    ) -> list[Command]:
        """Begin to serve the client, or close it. The heartbeat closes it when that takes too long.

        Args:
            find: Finds out its grant.
            answer: Makes the answer, where the client has sent a message. It comes before any update.

        Returns:
            What it begins with.
        """
        try:
            grant = await find()
        except Unauthenticated as error:
            self._reject(error)
        except Unverified as error:
            self._send([self._protocol.reject(error.code, error.message).payload])
            self.close(Close.UNVERIFIED)
        else:
            if self._begin(grant):
                if answer is not None:
                    self._send([answer(self._access.expires_in)])
                return self._open()
        return []

    def _reject(self, error: Unauthenticated) -> None:
        """Close a client that has no grant."""
        self._context.statistics.on_invalid_message(error.code)
        self._send([self._protocol.reject(error.code, error.message).payload])
        self.close(error.close)

    async def _authenticate(self, command: Authenticate) -> None:
        """Give the client the grant of a token: its first one, or another one, with which it keeps what that allows."""
        find = partial(self._context.authenticator.grant_of_token, command.token)
        if not self._access.is_granted:
            await self.run(await self._find_first_grant(find, command.answer))
            return
        try:
            grant = await find()
        except Unauthenticated as error:
            self._refuse(self._protocol.reject(error.code, error.message))  # which counts: it may be guessing
        except Unverified as error:  # it has the former grant as long as that lasts
            self._send([self._protocol.reject(error.code, error.message).payload])
        else:
            if not self._joins_subject(grant):
                return
            await self._replace_grant(grant)
            self._send([command.answer(self._access.expires_in)])

    async def _replace_grant(self, grant: Grant) -> None:
        access = self._access
        for channel in list(self._subscriptions):
            if access.decide(channel, grant) is Decision.NEEDS_OWNER:
                with suppress(BrokerError):  # then it is not decided, and ends below
                    await access.learn_owner(channel)
        former = access.grant
        access.set_grant(grant)
        for channel in list(self._subscriptions):
            decision = access.decide(channel)
            if decision is Decision.DENIED:
                self.on_forbidden(channel)
            elif decision is Decision.NEEDS_OWNER:
                self._end_subscription(channel, "unavailable", "the task's owner cannot be read now; subscribe again")
        for command in self._protocol.open():
            if isinstance(command, Subscribe) and not command.wants_history:
                was_allowed = access.decide(command.channel, former) is Decision.ALLOWED
                if not was_allowed and access.decide(command.channel) is Decision.ALLOWED:
                    self._subscribe_now(command, self._format(command.encoding))

    def _end_subscription(self, channel: str, code: str, message: str) -> None:
        """End a subscription of the client, and say why."""
        self._subscriptions.end(channel)
        self._access.forget(channel)
        self._connection.share.resize(len(self._subscriptions))
        self._send([self._protocol.refuse(code, message, channel).payload])

    # Subscriptions.

    async def _subscribe(self, command: Subscribe) -> None:
        channel = command.channel
        subscriptions = self._subscriptions
        decision = self._access.decide(channel)
        if decision is Decision.DENIED:
            self._forbid(channel)
            return
        if command.filtered is not None and not self._context.has_families:
            self._refuse(self._protocol.refuse("no_children", NO_FAMILIES, channel))
            return
        format = self._format(self._access.encoding_of(command))
        if channel not in subscriptions and (reason := self._why_no_room()) is not None:
            self._refuse(self._protocol.refuse("too_many_subscriptions", reason, channel))
            return
        if subscriptions.has(channel, format) and not command.requires_position:
            self._send(command.answer(None))  # answered twice, delivered once
            return
        if not command.wants_history:
            self._subscribe_now(command, format)
            return
        needs_owner = decision is Decision.NEEDS_OWNER or self._access.is_owned(channel)
        delay = self._budget.charge_subscribe(monotonic())
        if delay:
            await trio.sleep(delay)
        await self._run_subscription(
            _request(command, format, needs_owner=needs_owner),
            self._access.read_owned if needs_owner else self._context.load_history,
        )

    def _why_no_room(self) -> str | None:
        """Return why the client may have no further subscription; None when it may, which is counted then."""
        count, limit, share = len(self._subscriptions), self._context.settings.max_subscriptions, self._connection.share
        if count >= limit:
            return f"this connection has {limit} subscriptions, the limit; unsubscribe from some"
        share.resize(count)
        if not share.has_room(count + 1):
            return "all connections of this address or user have too many subscriptions together; unsubscribe from some"
        share.resize(count + 1)
        return None

    async def _run_subscription(
        self, request: Request, load_history: Callable[[str, Position | None], Awaitable[Snapshot]]
    ) -> None:
        """Serve a subscription up to where it follows the channel like all others."""
        channel = request.channel
        subscriptions = self._subscriptions
        subscription = subscriptions.start(request)
        while subscription is not None:
            if subscription.has_page and not self._connection.is_low:
                await self._connection.wait_low()
            match subscription.next_effect():
                case ReadHistory(since):
                    try:
                        subscription.on_history(await load_history(channel, since))
                    except Forbidden:
                        subscription.end()
                        subscriptions.discard(subscription)
                        self._forbid(channel)
                        return
                    except BrokerError as error:
                        if subscription.on_unavailable(error.public_message):
                            await trio.sleep(_READ_AGAIN)
                case Send(batch, result):
                    if result is not None:
                        self._context.statistics.on_recovery(result.recovered)
                    if batch.count:
                        self._connection.offer(batch, paced=True)
                    if subscription.has_page:
                        await self._context.take_turn()
                case Refuse(reason):
                    # Redis is away, which is no mistake of the client's.
                    subscriptions.discard(subscription)
                    self._send([self._protocol.refuse("unavailable", reason, channel).payload])
                case None:
                    return

    def _subscribe_now(self, command: Subscribe, format: Format) -> None:
        subscription = self._subscriptions.start(_request(command, format))
        while subscription is not None and isinstance(effect := subscription.next_effect(), Send):
            self._connection.offer(effect.batch, paced=True)

    def _forbid(self, channel: str) -> None:
        """Refuse a subscription, with the same answer whether there is such a task or not. It is no malformed message."""
        self._context.statistics.on_invalid_message(Forbidden.code)
        self._send([self._protocol.refuse(Forbidden.code, Forbidden.message, channel).payload])

    # Answers.

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
            self._connection.offer(batch_of(messages), paced=True)

    def _format(self, encoding: Encoding) -> Format:
        """Return the format of an encoding on this client's transport: one instance for all that share the encoding."""
        framing = self._connection.framing
        return Format(encoding, framing) if encoding.stateful else format_of(encoding, framing)
