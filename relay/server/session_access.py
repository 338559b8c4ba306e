"""What one session may follow: its grant, the owners by which it follows tasks, and the end of both."""

from math import inf
from time import time
from typing import Protocol

from relay_wire.channels import TASK_PREFIX

from relay.core.batches import Encoding
from relay.core.closecodes import Close
from relay.core.errors import BrokerError, BrokerUnavailable, Forbidden
from relay.core.grant_lifecycle import GrantLifecycle, Notice
from relay.core.grants import EVERYTHING, Decision, Grant, Verb
from relay.core.recovery import Snapshot
from relay.core.revocations import Revocations
from relay.core.updates import Position
from relay.protocols.base import Subscribe
from relay.server.auth.access import require_all
from relay.server.session_context import SessionContext

#: Reads in a row during which a task changed hands, after which the client is asked to try again.
_MAX_READS = 5


class _Session(Protocol):
    """A session, as `SessionAccess` knows it. No method waits."""

    def close(self, close: Close) -> None:
        """End the session this way."""

    def on_expiry_notice(self, seconds: float) -> None:
        """Notify the client that its grant ends in so many seconds."""

    def on_subscription_expired(self, channel: str) -> None:
        """End the subscription to a channel whose own grant has ended."""

    def on_forbidden(self, channel: str) -> None:
        """End the subscription to a channel that the client may not follow any longer."""


class SessionAccess:
    """The grant of a session, and what follows from it. Its timer is in the context's wheel, which the heartbeat turns.

    Args:
        context: What all sessions share.
        session: The session.
    """

    __slots__ = ("_context", "_is_scheduled", "_lifecycle", "_own_grants", "_owners", "_session")

    def __init__(self, context: SessionContext, session: _Session) -> None:
        self._context = context
        self._session = session
        self._is_scheduled = False
        self._lifecycle = GrantLifecycle(time() + context.settings.handshake_timeout)
        #: The tasks that are followed by their owner, and that owner; None while it is being read.
        self._owners: dict[str, frozenset[str] | None] = {}
        #: The grants of single subscriptions.
        self._own_grants: dict[str, Grant] = {}

    @property
    def is_granted(self) -> bool:
        """The client has a grant."""
        return self._lifecycle.is_served

    @property
    def grant(self) -> Grant:
        """What the client may do now."""
        return self._lifecycle.grant

    @property
    def expires_in(self) -> float | None:
        """Seconds until the grant ends; None is never."""
        ends = self.grant.expires_at
        return None if ends is None else ends - time()

    def start(self) -> None:
        """Limit how long the client may be without a grant."""
        self._schedule()

    def set_grant(self, grant: Grant) -> None:
        """Give the client its first grant, or another one. What it follows is not decided again by this."""
        now = time()
        self._lifecycle.on_grant(grant, now, self._context.settings.token_notice)
        self._schedule(now)

    def end(self) -> None:
        """Forget everything, at the end of the session."""
        for channel in [*self._owners, *self._own_grants]:
            self.forget(channel)
        self._context.grant_timers.cancel(self)

    def release(self) -> None:
        """Let go of the session, which refers to this object."""
        del self._session

    def _schedule(self, now: float | None = None) -> None:
        due = self._lifecycle.next_check
        if self._own_grants:
            ends = [grant.expires_at for grant in self._own_grants.values() if grant.expires_at is not None]
            due = min(ends if due is None else (due, *ends), default=None)
        if due is None:
            if self._is_scheduled:
                self._is_scheduled = False
                self._context.grant_timers.cancel(self)
        else:
            self._is_scheduled = True
            self._context.grant_timers.schedule(self, due, time() if now is None else now)

    # What the heartbeat calls.

    def check_time(self, now: float) -> None:
        """Notify or close the client, if it is time to. `now` is in seconds of the Unix epoch."""
        result = self._lifecycle.check(now)
        ended = [channel for channel, grant in self._own_grants.items() if (grant.expires_at or inf) <= now]
        for channel in ended:
            self._session.on_subscription_expired(channel)
        self._schedule()
        if isinstance(result, Notice):
            self._session.on_expiry_notice(result.seconds)
        elif result is not None:
            self._session.close(result)

    def check_revoked(self, revocations: Revocations) -> None:
        """Close the client if its grant is revoked."""
        if self.is_granted and revocations.covers(self.grant):
            close = self._lifecycle.on_revoked()
            self._schedule()
            if close is not None:
                self._session.close(close)

    # Channels.

    def decide(self, channel: str, grant: Grant | None = None) -> Decision:
        """Decide whether the client may follow a channel: by its present grant, or by another one, or by the channel's own."""
        owner = self._owners.get(channel)
        own = self._own_grants.get(channel)
        if own is not None and own.decide(Verb.WATCH, channel, owner) is Decision.ALLOWED:
            return Decision.ALLOWED
        return (grant or self.grant).decide(Verb.WATCH, channel, owner)

    def permit(self, channel: str, grant: Grant) -> None:
        """Let the client follow one channel by a grant that counts for this subscription only, until it ends or `forget`."""
        self._own_grants[channel] = grant
        self._schedule()

    def encoding_of(self, command: Subscribe) -> Encoding:
        """Return the encoding for what the client subscribes to: one of its own if it may not see all of that.

        A client with a grant may get another one later, so even one that covers everything is asked each time.
        """
        if command.filtered is None or self.grant is EVERYTHING:
            return command.encoding
        return command.filtered(self.may_watch)

    def may_watch(self, task_id: str, owner: frozenset[str]) -> bool:
        """Whether the client may watch a task that these users and groups own, by its present grant."""
        return self.grant.decide(Verb.WATCH, TASK_PREFIX + task_id, owner) is Decision.ALLOWED

    async def family_refusal(self, channel: str) -> tuple[str, str] | None:
        """Return why the client may not follow a family by owning its parent, as a code and a text; None when it may.

        Reading a family has Redis keep it for a while, which is a write: so the owner is read before, in a round trip for it.
        """
        try:
            await require_all(self.grant, Verb.WATCH, [channel], self._context.services.tasks.last_owners)
        except Forbidden as error:
            return error.code, error.message
        except BrokerError as error:
            return "unavailable", error.public_message
        return None

    def is_owned(self, channel: str) -> bool:
        """Whether the client follows a channel by its owner."""
        return channel in self._owners

    async def read_owned(self, channel: str, since: Position | None) -> Snapshot:
        """Read a channel that only its owner may follow, and decide by the owner that comes with it, in the one round trip.

        Args:
            channel: The channel.
            since: The position after which history is wanted; None for the state.

        Raises:
            Forbidden: The client is not an owner, or there is no such task.
            BrokerError: It cannot be read.
        """
        snapshot = await self.learn_owner(channel, since)
        if self.decide(channel) is not Decision.ALLOWED:
            self.forget(channel)
            raise Forbidden
        return snapshot

    async def learn_owner(self, channel: str, since: Position | None = None) -> Snapshot:
        """Read a channel, remember its owner, and be notified of another one until `forget`.

        Raises:
            BrokerError: It cannot be read; the channel is forgotten.
        """
        former = self._owners.get(channel)
        try:
            for _ in range(_MAX_READS):
                self._owners[channel] = None
                self._context.owned_channels.add(channel, self)
                snapshot = await self._context.histories.read(channel, since)
                owner = snapshot.owner or frozenset()
                news = self._owners.get(channel)
                if news is None or news == owner:
                    self._owners[channel] = owner
                    return snapshot
                # It changed hands meanwhile, and either of the two may be the older.
            raise BrokerUnavailable("the task's owner changes faster than it can be read")
        except BaseException:
            self._stop_reading(channel, former)
            raise

    def _stop_reading(self, channel: str, former: frozenset[str] | None) -> None:
        """Go back to the owner that was known before, or to the news that came since."""
        if former is None:
            self.forget(channel)
        elif channel in self._owners:
            news, self._owners[channel] = self._owners[channel], former
            if news is not None:
                self.on_owner(channel, news)

    def forget(self, channel: str) -> None:
        """Note that a channel is not followed any longer."""
        if self._own_grants.pop(channel, None) is not None:
            self._schedule()
        if channel in self._owners:
            del self._owners[channel]
            self._context.owned_channels.remove(channel, self)

    def on_owner(self, channel: str, owner: frozenset[str]) -> None:
        """Take the news of a task's owner, and leave the task if the client may not follow it any longer."""
        is_reading = self._owners[channel] is None
        self._owners[channel] = owner
        if not is_reading and self.decide(channel) is not Decision.ALLOWED:
            self.forget(channel)
            self._session.on_forbidden(channel)
