"""What a client asks about channels, or publishes: answered by Redis, as far as its grant allows it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import msgspec
from relay_wire.channels import GENERAL, GENERAL_UPDATE, MESSAGE, TASK_PREFIX, TASK_UPDATE

from relay.broker.client_publishes import ClientPublishes, Publication
from relay.broker.history_ranges import HistoryRanges
from relay.broker.presence import Presence
from relay.broker.task_store import TaskStore
from relay.core.errors import BadMessage, BrokerError, Forbidden, RelayError
from relay.core.grants import Decision, Grant, Verb
from relay.core.json_errors import NOT_JSON
from relay.protocols.base import AskHistory, AskPresence, Publish, Query
from relay.server.auth.access import require_all
from relay.server.publish_access import for_writer, outcome_of, targets_of


@dataclass(frozen=True, slots=True)
class ChannelServices:
    """What Redis does for sessions besides what they follow.

    Attributes:
        presence: Who is in which channel.
        history: Parts of histories.
        publishes: Publishes for clients.
        tasks: The tasks, and who owns them.
        max_update_bytes: Longest update of a client.
    """

    presence: Presence
    history: HistoryRanges
    publishes: ClientPublishes
    tasks: TaskStore
    max_update_bytes: int


class _Access(Protocol):
    """What the client may do."""

    @property
    def grant(self) -> Grant:
        """Its grant."""

    def decide(self, channel: str, grant: Grant | None = None) -> Decision:
        """Decide whether it may follow a channel."""


async def answer_query(services: ChannelServices, access: _Access, query: Query) -> Iterable[bytes]:
    """Return the payloads that answer a query. What cannot be done is an answer as well."""
    try:
        match query:
            case AskPresence(channel, answer):
                await _require_watch(services, access, channel)
                return answer(await services.presence.read(channel))
            case AskHistory(channel, wanted, answer):
                await _require_watch(services, access, channel)
                return answer(await services.history.read(channel, wanted))
            case Publish():
                await _publish(services, access.grant, query)
                return query.answer(None)
    except (BadMessage, BrokerError, Forbidden) as error:
        return query.answer(error)


async def _require_watch(services: ChannelServices, access: _Access, channel: str) -> None:
    # Of a task that the client follows, the owner is known, and a subscription may have a grant of its own.
    if access.decide(channel) is not Decision.ALLOWED:
        await require_all(access.grant, Verb.WATCH, [channel], services.tasks.last_owners)


async def _publish(services: ChannelServices, grant: Grant, query: Publish) -> None:
    publication = _publication(query, services.max_update_bytes)
    channels = [target.channel for target in targets_of(publication)]
    await require_all(grant, Verb.PUBLISH, channels, services.tasks.owners)
    (published,) = await services.publishes.publish([for_writer(publication, grant)])
    outcome = outcome_of(published)
    if isinstance(outcome, RelayError):
        raise outcome


def _publication(query: Publish, max_bytes: int) -> Publication:
    try:
        query.data.decode()  # of which a client that speaks Protocol Buffers has sent bytes
        msgspec.json.decode(query.data, type=dict[str, msgspec.Raw])
    except NOT_JSON:
        raise BadMessage("wrong_type", "what is published must be a JSON object") from None
    if len(query.data) > max_bytes:
        raise BadMessage("update_too_large", f"an update has {max_bytes} bytes at most")
    if query.channel.startswith(TASK_PREFIX):
        return Publication(query.channel, TASK_UPDATE, query.data)
    return Publication(query.channel, GENERAL_UPDATE if query.channel == GENERAL else MESSAGE, query.data)
