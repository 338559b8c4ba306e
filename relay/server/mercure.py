"""Mercure's hub: subscribing to topics, as an event stream, and publishing by a form."""

from typing import Any
from urllib.parse import parse_qsl

import msgspec
from quart import Response, request
from quart_trio import QuartTrio
from relay_wire.channels import GENERAL, TASK_PREFIX
from relay_wire.trace_context import TRACEPARENT

from relay.broker.client_publishes import Publication, Published
from relay.core.channels import ChannelPatterns
from relay.core.client_subscriptions import EarlyUpdates
from relay.core.errors import BadMessage, BrokerError, BrokerUnavailable
from relay.core.grants import Grant, Verb
from relay.core.json_errors import NOT_JSON
from relay.core.topics import TOPIC_PREFIX, TOPICS
from relay.core.updates import Position
from relay.protocols.base import ClientProtocol
from relay.protocols.event_ids import EventId
from relay.protocols.mercure import MercureProtocol, channel_of_topic, read_selectors
from relay.protocols.mercure_forms import (
    EARLIEST,
    PATH,
    TOPIC_UPDATE,
    TopicUpdate,
    id_of,
    position_of,
    read_form,
    stored_form,
)
from relay.server.api_access import require_write
from relay.server.api_errors import Refused, failure_of, failure_response
from relay.server.api_publish import GeneralUpdate, Publisher, TaskUpdate
from relay.server.auth.access import TOKEN_IN_URL
from relay.server.auth.credentials import COOKIE, has_token
from relay.server.cors import header
from relay.server.publish_access import Target
from relay.server.running_relay import RelayHandle, RunningRelay
from relay.server.sse_endpoint import Headers, Stream

#: The cookie in which Mercure's clients have their token.
MERCURE_COOKIE = "mercureAuthorization"

#: Parameters that have the last event id, where a client cannot send it as a header. The first is the one of the specification.
_LAST_EVENT_ID = ("lastEventID", "last_event_id", "Last-Event-ID")


def with_relay_cookie(scope: Any) -> Any:
    """Return the scope of a request in which Mercure's cookie stands as Relay's own, so that it is checked like that."""
    cookies = header(scope["headers"], b"cookie")
    if cookies is None or MERCURE_COOKIE not in cookies:
        return scope
    for pair in cookies.split(";"):
        name, _, value = pair.strip().partition("=")
        if name == MERCURE_COOKIE and value:
            others = [(key, content) for key, content in scope["headers"] if key != b"cookie"]
            return {**scope, "headers": [*others, (b"cookie", f"{COOKIE}={value}".encode("latin1"))]}
    return scope


# Subscribing.


def mercure_stream(relay: RunningRelay, named: ChannelPatterns, scope: Any, limit: int) -> Stream:
    """Return what a request to subscribe asks for.

    Args:
        relay: The relay.
        named: The extra channels.
        scope: The request.
        limit: Most topics.

    Raises:
        BadMessage: The query is malformed.
    """
    query_string = scope["query_string"]
    if has_token(query_string):
        raise BadMessage("token_in_url", TOKEN_IN_URL)
    try:
        query = parse_qsl(query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=1000)
    except ValueError:
        raise BadMessage("bad_query", "the query must be percent-encoded UTF-8, with 1000 parameters at most") from None
    selectors = read_selectors(query, named, limit)
    parameters = dict(query)
    in_header = header(scope["headers"], b"last-event-id")
    given = None if in_header is None else in_header.encode("latin1").decode("utf-8", "replace")
    for name in _LAST_EVENT_ID:
        given = given or parameters.get(name)

    async def protocol(grant: Grant) -> tuple[ClientProtocol, Headers]:
        headers: Headers = []
        since = None
        if selectors.selection:
            since = await _top(relay) if given is None else await _position_of(relay, given)
            if given is not None:
                headers.append((b"last-event-id", await _preceding(relay, given, since)))
        return MercureProtocol(selectors, grant, given, since), headers

    return Stream(selectors.count, selectors.channels, protocol)


async def _top(relay: RunningRelay) -> Position:
    """Return where the channel of all topics stands, at least as far as what was published before now is concerned."""
    context = relay.admission.context
    position = context.hub.position(TOPICS)
    if position is not None:
        return position
    with EarlyUpdates(context.hub, [TOPICS]):  # only what somebody follows can be read like this
        return (await context.histories.read(TOPICS, None)).top


async def _position_of(relay: RunningRelay, event_id: str) -> Position | None:
    """Return the position after which a client wants the updates; None where its id is not known, or not any more."""
    if event_id != EARLIEST:
        return position_of(event_id) or await relay.event_positions.find(TOPICS, event_id)
    page = await relay.history.read_channel(TOPICS, None)
    first = page.updates[0].position if page is not None and page.updates else None
    return await _top(relay) if first is None else Position(first.epoch, first.offset - 1)


async def _preceding(relay: RunningRelay, event_id: str, since: Position | None) -> bytes:
    """Return the id of the update before the first that is sent: the client's own if it can resume."""
    # A header has no control characters and no blanks at its ends; an id with such is none that a publisher may give.
    can_be_sent = since is not None and event_id.isprintable() and event_id == event_id.strip()
    return (event_id if can_be_sent else id_of(await _top(relay))).encode()


# Publishing.


def add_mercure(app: QuartTrio, handle: RelayHandle, named: ChannelPatterns, publisher: Publisher) -> None:
    """Add the route that publishes to an app.

    Args:
        app: The app.
        handle: The relay, once it has started.
        named: The extra channels.
        publisher: Publishes what has a channel of its own.
    """

    @app.post(PATH)
    async def publish_topic_update() -> Response:
        """Publish an update of topics; the answer is its id."""
        if has_token(request.scope["query_string"]):
            raise BadMessage("token_in_url", TOKEN_IN_URL)
        body: Any = await request.get_data()
        if request.mimetype != "application/x-www-form-urlencoded":
            raise Refused(415, "unsupported_media_type", "send a form, as application/x-www-form-urlencoded")
        update = read_form(body)
        channels = {topic: channel_of_topic(topic, named) for topic in update.topics}
        try:
            if any(channels.values()):
                event_id = await _publish_on_channel(publisher, update, channels[update.topics[0]])
            else:
                event_id = await _publish_topics(handle.running, update, publisher.max_update_bytes)
        except BrokerUnavailable as error:
            failure = failure_of(error)
            message = "Redis did not confirm it, and it may have been published or not"
            return failure_response(failure._replace(code="outcome_unknown", message=message))
        except BrokerError as error:
            return failure_response(failure_of(error))
        return Response(event_id, content_type="text/plain; charset=utf-8", headers={"cache-control": "no-store"})


async def _publish_topics(relay: RunningRelay, update: TopicUpdate, max_bytes: int) -> str:
    if len(update.data.encode()) > max_bytes:
        raise Refused(413, "update_too_large", f"`data` may have {max_bytes} bytes (RELAY_MAX_UPDATE_BYTES)")
    await require_write(relay, Verb.PUBLISH, [Target(TOPIC_PREFIX + topic) for topic in update.topics])
    (outcome,) = await relay.publishes.publish(
        [Publication(TOPICS, TOPIC_UPDATE, stored_form(update))], request.headers.get(TRACEPARENT)
    )
    if isinstance(outcome, Exception):
        raise outcome
    if update.id is None:
        return id_of(outcome.position)
    await relay.event_positions.remember(TOPICS, update.id, outcome.position)
    return update.id


async def _publish_on_channel(publisher: Publisher, update: TopicUpdate, channel: str | None) -> str:
    """Publish an update of a task, a general one, or a message on an extra channel."""
    if len(update.topics) > 1 or channel is None:
        raise BadMessage("bad_topic", "an update of a task or a channel of Relay has this one topic and no other")
    if update.type is not None or update.retry is not None:
        raise BadMessage("bad_type", "an update of a task or a channel of Relay has no `type` and no `retry`")
    try:
        data = msgspec.json.decode(update.data, type=msgspec.Raw)
    except NOT_JSON as error:
        raise BadMessage("not_json", f"`data` must be a JSON object, as for the HTTP API: {error}") from None
    (topic,) = update.topics
    if channel.startswith(TASK_PREFIX):
        publication = publisher.task_publication(topic[len(TASK_PREFIX) :], TaskUpdate(data))
    elif channel == GENERAL:
        publication = publisher.general_publication(GeneralUpdate(data))
    else:
        publication = publisher.channel_publication(topic, data)
    published: Published = await publisher.publish(publication)
    event_id = EventId()
    event_id.set(channel, published.position)
    return event_id.encode().decode()
