"""What a client asks about channels, or publishes: answered by Redis, as far as its grant allows it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import msgspec
from relay_wire.channels import GENERAL, GENERAL_UPDATE, MESSAGE, TASK_PREFIX, TASK_UPDATE

from relay.broker.client_publishes import ClientPublishes, Publication
from relay.broker.history_ranges import HistoryRanges
from relay.broker.presence import Presence
from relay.broker.script_calls import announced_task
from relay.core.channels import task_channel
from relay.core.errors import BadMessage, BrokerError, Forbidden, RelayError
from relay.core.grants import Decision, Grant, Verb
from relay.protocols.base import AskHistory, AskPresence, Publish, Query


@dataclass(frozen=True, slots=True)
class ChannelServices:
    """What Redis does for sessions besides what they follow.

    Attributes:
        presence: Who is in which channel.
        history: Parts of histories.
        publishes: Publishes for clients.
        max_update_bytes: Longest update of a client.
    """

    presence: Presence
    history: HistoryRanges
    publishes: ClientPublishes
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
                _require_watch(access, channel)
                return answer(await services.presence.read(channel))
            case AskHistory(channel, wanted, answer):
                _require_watch(access, channel)
                return answer(await services.history.read(channel, wanted))
            case Publish():
                await _publish(services, access.grant, query)
                return query.answer(None)
    except (BadMessage, BrokerError, Forbidden) as error:
        return query.answer(error)


def _require_watch(access: _Access, channel: str) -> None:
    # A task that only its owner may follow is known to be the client's once it follows it.
    if access.decide(channel) is not Decision.ALLOWED:
        raise Forbidden


async def _publish(services: ChannelServices, grant: Grant, query: Publish) -> None:
    publication = _publication(query, services.max_update_bytes)
    channels = [publication.channel]
    if publication.type == GENERAL_UPDATE and (announced := announced_task(publication.data)) is not None:
        channels.append(task_channel(announced[0]))
    if any(grant.decide(Verb.PUBLISH, channel) is not Decision.ALLOWED for channel in channels):
        raise Forbidden
    (outcome,) = await services.publishes.publish([publication])
    if isinstance(outcome, RelayError):
        raise outcome


def _publication(query: Publish, max_bytes: int) -> Publication:
    try:
        query.data.decode()  # of which a client that speaks Protocol Buffers has sent bytes
        msgspec.json.decode(query.data, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadMessage("wrong_type", "what is published must be a JSON object") from None
    if len(query.data) > max_bytes:
        raise BadMessage("update_too_large", f"an update has {max_bytes} bytes at most")
    if query.channel.startswith(TASK_PREFIX):
        return Publication(query.channel, TASK_UPDATE, query.data)
    return Publication(query.channel, GENERAL_UPDATE if query.channel == GENERAL else MESSAGE, query.data)
