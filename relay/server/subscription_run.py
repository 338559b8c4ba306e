"""One subscription on its way to the live sequence of its channel: what `relay.core.subscription` decides is done here."""

from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Protocol

import trio

from relay.config import Settings
from relay.core.batches import Batch, Format, format_of
from relay.core.client_budget import ClientBudget
from relay.core.client_limits import ClientShare
from relay.core.client_subscriptions import SubscriptionSet
from relay.core.errors import BrokerError, Forbidden
from relay.core.grants import Decision
from relay.core.recovery import Snapshot
from relay.core.shared_updates import SharedUpdates
from relay.core.subscription import PAGE_BYTES, PAGE_UPDATES, ReadHistory, Refuse, Request, Send
from relay.core.updates import Position, Update
from relay.protocols.base import Refusal, Subscribe
from relay.server.session_access import SessionAccess
from relay.server.session_connection import Connection
from relay.server.session_context import SessionContext

#: Seconds after which a history is read again whose first part was sent.
_READ_AGAIN = 0.5

#: Reads a channel for one client; as `relay.server.session_context.Histories` does. May raise Forbidden.
LoadFor = Callable[[str, Position | None], Awaitable[Snapshot]]


class _Client(Protocol):
    """The client of a subscription: what a run needs of its session."""

    @property
    def is_low(self) -> bool:
        """The client has read most of what waited for it."""

    async def wait_low(self) -> None:
        """Wait until `is_low`."""

    def offer(self, batch: Batch, *, paced: bool = False) -> None:
        """Write a batch, or queue what the socket does not take."""


class SubscriptionRun:
    """Serves one subscription at its client's pace.

    Args:
        context: What all sessions share.
        client: Whose subscription it is.
        subscriptions: The client's subscriptions.
        command: What it asked for.
        request: The same, for the hub.
        load_history: Reads the channel.
        refuse: Sends the client that it cannot be served, with a code and a text.
        recent: Returns what it missed where that is known without reading; None for a client whose access is still to be
            decided.
    """

    __slots__ = (
        "_client",
        "_context",
        "_load_history",
        "_recent",
        "_refuse",
        "_subscription",
        "_subscriptions",
        "command",
    )

    def __init__(
        self,
        context: SessionContext,
        client: _Client,
        subscriptions: SubscriptionSet,
        command: Subscribe,
        request: Request,
        load_history: LoadFor,
        refuse: Callable[[Subscribe, str, str], None],
        recent: Callable[[str, Position], Snapshot | None] | None = None,
    ) -> None:
        self._context = context
        self._client = client
        self._subscriptions = subscriptions
        self._load_history = load_history
        self._recent = recent
        self._refuse = refuse
        self._subscription = subscriptions.start(request)
        self.command = command

    async def run(self, *, until_answered: bool = False) -> bool:
        """Serve the subscription up to where it follows the channel like all others, or ends.

        Args:
            until_answered: Stop earlier, when it has been answered.

        Returns:
            Whether it is to be run again, since it was only answered.
        """
        subscription, client = self._subscription, self._client
        while subscription is not None:
            if subscription.has_page and not client.is_low:
                await client.wait_low()
            match subscription.next_effect():
                case ReadHistory(since):
                    await self._read(since)
                case Send(batch, result):
                    if result is not None:
                        self._context.statistics.on_recovery(result.recovered)
                    if batch.count:
                        client.offer(batch, paced=True)
                    if result is not None and until_answered:
                        return True
                    if subscription.has_page:
                        await self._context.take_turn()
                case Refuse(reason):
                    # Redis is away, which is no mistake of the client's.
                    self._context.statistics.on_unavailable(self.command.channel, reason)
                    self._subscriptions.discard(subscription)
                    self._refuse(self.command, "unavailable", reason)
                case None:
                    return False
        return False

    async def _read(self, since: Position | None) -> None:
        subscription = self._subscription
        assert subscription is not None
        if since is not None and self._recent is not None:
            known = self._recent(self.command.channel, since)
            if known is not None:
                await self._context.recoveries.turn()
                subscription.on_history(known)
                return
        try:
            subscription.on_history(await self._load_history(self.command.channel, since))
        except Forbidden:
            subscription.end()
            self._subscriptions.discard(subscription)
            self._refuse(self.command, Forbidden.code, Forbidden.message)
        except BrokerError as error:
            if subscription.on_unavailable(error.public_message):
                await trio.sleep(_READ_AGAIN)


def resume_at_once(
    context: SessionContext,
    client: Connection,
    subscriptions: SubscriptionSet,
    budget: ClientBudget,
    access: SessionAccess,
    command: Subscribe,
) -> bool:
    """Subscribe a client that resumes, without waiting for anything.

    Args:
        context: What all sessions share.
        client: Whose subscription it is.
        subscriptions: The client's subscriptions.
        budget: What it may ask for.
        access: What it may follow.
        command: What it asks for.

    Returns:
        Whether that was possible: what it missed is known and fits into one page, it may have it without its owner being
        read, and no limit stands against it. If not, nothing was done.
    """
    channel, since = command.channel, command.since
    is_special = command.grant is not None or command.filtered is not None or command.encoding.stateful
    if since is None or is_special or channel in subscriptions or not (budget.may_subscribe and client.is_low):
        return False
    if access.decide(channel) is not Decision.ALLOWED or access.is_owned(channel):
        return False
    known = context.histories.recent(channel, since)
    request = request_of(command, format_of(command.encoding, client.framing))
    if known is None or not _is_one_page(known.entries, request) or not context.recoveries.turn_nowait():
        return False
    if no_room_reason(subscriptions, client.share, context.settings) is not None:
        return False
    budget.charge_subscribe(monotonic())
    subscription = subscriptions.start(request)
    while subscription is not None and (effect := subscription.next_effect()) is not None:
        if isinstance(effect, Send):
            if effect.result is not None:
                context.statistics.on_recovery(effect.result.recovered)
            if effect.batch.count:
                client.offer(effect.batch, paced=True)
        else:
            assert isinstance(effect, ReadHistory), "what is known is not refused"
            subscription.on_history(known)
    return True


def _is_one_page(missed: Sequence[Update] | None, request: Request) -> bool:
    """Whether a client gets all it missed as one page, which it shares with others."""
    format = request.format
    if not isinstance(missed, SharedUpdates) or (format.encoding.whole_values and missed.has_operations):
        return False
    if request.updates_in_answer:
        return len(missed) <= PAGE_UPDATES and missed.size <= PAGE_BYTES
    return len(missed.pages(format, PAGE_UPDATES, PAGE_BYTES)) <= 1


def refusal_of(command: Subscribe, code: str, message: str, default: Callable[[str, str, str], Refusal]) -> Refusal:
    """Return the answer to a subscribe that cannot be carried out: the command's own, or the protocol's."""
    return default(code, message, command.channel) if command.refuse is None else command.refuse(code, message)


def request_of(command: Subscribe, format: Format, *, needs_owner: bool = False) -> Request:
    """Return a client's request as the hub takes it.

    Args:
        command: What it asked for.
        format: How updates are encoded and framed.
        needs_owner: Only the task's owner may follow it.
    """
    # A task that only its owner may follow is refused while Redis is away, since nobody can say then who owns it.
    is_refused_without_redis = command.requires_position or needs_owner
    return Request(
        command.channel,
        format,
        command.answer,
        command.since,
        command.wants_history,
        is_refused_without_redis,
        command.updates_in_answer,
    )


def no_room_reason(subscriptions: SubscriptionSet, share: ClientShare, settings: Settings) -> str | None:
    """Return why a client may have no further subscription; None when it may, which is counted then."""
    count, limit = len(subscriptions), settings.max_subscriptions
    if count >= limit:
        return f"this connection has {limit} subscriptions, the limit; unsubscribe from some"
    share.resize(count)
    if not share.has_room(count + 1):
        return "all connections of this address or user have too many subscriptions together; unsubscribe from some"
    share.resize(count + 1)
    return None
