"""What a client's messages do: its subscriptions and its grant. `relay.server.session` is the connection that they come on."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from itertools import chain
from time import monotonic

import trio

from relay.core.batches import Format, batch_of
from relay.core.client_budget import ClientBudget
from relay.core.client_subscriptions import EarlyUpdates, SubscriptionSet
from relay.core.closecodes import Close
from relay.core.errors import BrokerError, Forbidden, Unauthenticated, Unverified
from relay.core.families import NO_FAMILIES
from relay.core.grants import Decision, Grant
from relay.core.revocations import Revocations
from relay.protocols.base import (
    Admit,
    AskHistory,
    AskPresence,
    Authenticate,
    ClientProtocol,
    Command,
    End,
    Identify,
    Join,
    Permit,
    Publish,
    Refusal,
    Reply,
    Subscribe,
    SubscribeBatch,
    Unsubscribe,
    VerifyToken,
)
from relay.server.auth.access import grant_or_refusal, known_grant
from relay.server.auth.authenticator import Entry, FindGrant
from relay.server.session_access import SessionAccess
from relay.server.session_connection import Connection
from relay.server.session_context import SessionContext
from relay.server.session_presence import SessionPresence
from relay.server.session_queries import answer_query
from relay.server.session_replies import NO_TOKEN, SessionReplies
from relay.server.subscription_run import SubscriptionRun, no_room_reason, refusal_of, request_of, resume_at_once


class SessionCommands(SessionReplies):
    """Executes what a client asks for, one command after the other.

    Args:
        context: What all sessions share.
        protocol: What the client's messages mean.
        connection: Its connection.
        entry: Its credentials. Without any it has to send some, and nothing else is served before.
        budget: What it may ask for.
    """

    __slots__ = ("_access", "_budget", "_entry", "_presence", "_subscriptions")

    def __init__(
        self,
        context: SessionContext,
        protocol: ClientProtocol,
        connection: Connection,
        entry: Entry,
        budget: ClientBudget,
    ) -> None:
        super().__init__(context, protocol, connection)
        self._entry = entry
        self._budget = budget
        self._access = SessionAccess(context, self)
        self._subscriptions = SubscriptionSet(context.hub, connection)
        self._presence: SessionPresence | None = None  # of a client that is known by an id

    # What others do: nothing here waits.

    def open(self, early: EarlyUpdates | None = None) -> list[Command]:
        """Subscribe the client to what it gets without asking, as far as its grant is known and allows it.

        Args:
            early: What came before.

        Returns:
            What else it begins with; to be executed.
        """
        if self._protocol.admits or not isinstance(self._entry, Grant):
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
        if self._presence is not None:
            self._presence.end()
        self._access.end()

    def release(self) -> None:
        """Drop what refers back to the session, after its end: a cycle would keep it in memory. Nothing can be called then."""
        self._access.release()
        del self._connection, self._subscriptions

    def check_revoked(self, revocations: Revocations) -> None:
        """Close the session if its grant is revoked."""
        self._access.check_revoked(revocations)

    def on_expiry_notice(self, seconds: float) -> None:
        """Notify the client that its grant ends in so many seconds."""
        self._send([self._protocol.expiry_notice(seconds)])

    def on_subscription_expired(self, channel: str) -> None:
        """End the subscription to a channel whose own grant has ended."""
        self._end_subscription(channel, "subscription_expired", "the token of this subscription has expired")

    def on_forbidden(self, channel: str) -> None:
        """End the subscription to a channel that the client may not follow any longer."""
        self._end_subscription(channel, Forbidden.code, Forbidden.message)

    @property
    def has_to_enter(self) -> bool:
        """The client's credentials have to be checked, or say that it is to be closed: see `enter`."""
        return not self._protocol.admits and self._entry is not None and not isinstance(self._entry, Grant)

    def run_at_once(self, commands: Iterable[Command]) -> Iterable[Command] | None:
        """Execute commands in order as far as that takes no waiting. Little waits for the client.

        Returns:
            The rest, for `run`; None if there is none.
        """
        rest = iter(commands)
        for command in rest:
            if self._subscriptions.is_closed:
                break
            if isinstance(command, VerifyToken):
                verified = known_grant(self._context.authenticator, self._entry, command.token)
                if verified is None:
                    return chain((command,), rest)
                self._note_verified(verified)
                left = self.run_at_once(command.answer(verified))
                if left is not None:
                    return chain(left, rest)
            elif not self._execute_at_once(command):
                return chain((command,), rest)
        return None

    def _execute_at_once(self, command: Command) -> bool:
        """Execute a command; returns whether that could be done without waiting. If not, nothing was done."""
        if not (self._access.is_granted or self._protocol.admits or isinstance(command, Authenticate | End)):
            self._reject(NO_TOKEN)
            return True
        match command:
            case Reply(payload):
                self._send([payload])
            case Subscribe():
                link, following = self._connection, self._subscriptions
                return resume_at_once(self._context, link, following, self._budget, self._access, command)
            case Permit(channel, grant):
                self._access.permit(channel, grant)
            case Unsubscribe(channel, payload):
                self._leave(channel)
                self._send([payload])
            case Identify(client, user):
                self._presence = SessionPresence(self._context, self._connection, client, user)
            case SubscribeBatch(subscriptions, answer) if not subscriptions:
                self._send(answer())
            case Admit(grant) if not self._access.is_granted:
                self._begin(grant)
            case Join(channel, _, None):
                if self._presence is not None and channel in self._subscriptions:
                    self._presence.add(command)
            case Refusal():
                self._refuse(command)
            case End(close):
                self.close(close)
            case _:
                return False
        return True

    # What the session's own task does.

    async def enter(self) -> None:
        """Find out the grant of a client whose credentials have to be checked first, and begin to serve it, or close it."""
        if self._protocol.admits:
            return
        entry, self._entry = self._entry, None
        if isinstance(entry, Unauthenticated):
            self._reject(entry)
        elif entry is not None and not isinstance(entry, Grant):
            await self.run(await self._find_first_grant(entry))

    async def run(self, commands: Iterable[Command]) -> None:
        """Execute commands in order, until one ends the session."""
        for command in commands:
            if self._subscriptions.is_closed:
                return
            await self._execute(command)

    async def _execute(self, command: Command) -> None:
        if self._execute_at_once(command):
            return
        match command:
            case Authenticate():
                await self._authenticate(command)
            case VerifyToken(token, answer):
                context, timeout = self._context, self._context.settings.handshake_timeout
                verified = await grant_or_refusal(context.authenticator, self._entry, token, timeout)
                self._note_verified(verified)
                await self.run(answer(verified))
            case Admit(grant) if self._joins_subject(grant):
                await self._replace_grant(grant)
            case Subscribe():
                begun = await self._begin_subscription(command)
                if begun is not None:
                    await begun.run()
            case SubscribeBatch():
                await self._subscribe_batch(command)
            case Join() if self._presence is not None and command.channel in self._subscriptions:
                await self._presence.join(command, self._connection)
            case AskPresence() | AskHistory() | Publish():
                self._send(await answer_query(self._context.services, self._access, command))

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
            if self._joins_subject(grant):
                await self._replace_grant(grant)
                self._send([command.answer(self._access.expires_in)])

    def _note_verified(self, result: Grant | Unauthenticated | Unverified) -> None:
        self._entry = None
        if not isinstance(result, Grant):
            self._context.statistics.on_invalid_message(result.code)

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
        self._leave(channel)
        self._send([self._protocol.refuse(code, message, channel).payload])

    def _leave(self, channel: str) -> None:
        self._subscriptions.end(channel)
        self._access.forget(channel)
        self._connection.share.resize(len(self._subscriptions))
        if self._presence is not None:
            self._presence.leave(channel)

    # Subscriptions.

    async def _subscribe_batch(self, command: SubscribeBatch) -> None:
        begun = [await self._begin_subscription(each) for each in command.subscriptions]
        # What is live is buffered between the two: nothing comes before the answer.
        answered = [run for run in begun if run is not None and await run.run(until_answered=True)]
        self._send(command.answer())
        for run in answered:
            await run.run()

    async def _begin_subscription(self, command: Subscribe) -> SubscriptionRun | None:
        channel = command.channel
        subscriptions = self._subscriptions
        if command.grant is not None:
            self._access.permit(channel, command.grant)
        decision = self._access.decide(channel)
        if decision is Decision.DENIED:
            self._refuse_subscription(command, Forbidden.code, Forbidden.message)
            return None
        if command.filtered is not None and not self._context.has_families:
            self._refuse_subscription(command, "no_children", NO_FAMILIES)
            return None
        format = self._format(self._access.encoding_of(command))
        share = self._connection.share
        if channel not in subscriptions and (reason := no_room_reason(subscriptions, share, self._context.settings)):
            self._refuse(refusal_of(command, "too_many_subscriptions", reason, self._protocol.refuse))
            return None
        if subscriptions.has(channel, format) and not command.requires_position:
            self._send(command.answer(None))  # answered twice, delivered once
            return None
        if not command.wants_history:
            self._subscribe_now(command, format)
            return None
        needs_owner = decision is Decision.NEEDS_OWNER or self._access.is_owned(channel)
        delay = self._budget.charge_subscribe(monotonic())
        if delay:
            await trio.sleep(delay)
        if needs_owner and command.filtered is not None and (why := await self._access.family_refusal(channel)):
            self._refuse_subscription(command, *why)
            return None
        return SubscriptionRun(
            self._context,
            self._connection,
            subscriptions,
            command,
            request_of(command, format, needs_owner=needs_owner),
            self._access.read_owned if needs_owner else self._context.histories.resume,
            self._refuse_subscription,
            recent=None if needs_owner else self._context.histories.recent,
        )

    def _subscribe_now(self, command: Subscribe, format: Format) -> None:
        """Begin a subscription without history: there is nothing to wait for."""
        answers = [format.payload(payload) for payload in command.answer(None)]
        if answers and not self._subscriptions.is_closed:
            self._connection.offer(batch_of(answers), paced=True)
        self._subscriptions.follow(command.channel, format)

    def _refuse_subscription(self, command: Subscribe, code: str, message: str) -> None:
        """Refuse a subscription for a reason that is no malformed message.

        A client that may not follow a task gets the same answer whether there is such a task or not.
        """
        if code == Forbidden.code:
            self._context.statistics.on_invalid_message(code)
        self._access.forget(command.channel)
        self._send([refusal_of(command, code, message, self._protocol.refuse).payload])
