"""Publishing over HTTP: updates of tasks, general updates, messages on extra channels, and several of them at once.

An answer of 2xx means that Redis has the update, with its position. While Redis is away the answer is 503, and whether it was
published is then unknown: a request with an ``Idempotency-Key`` may be repeated, on any relay, and publishes once.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from quart import Response, request
from quart_trio import QuartTrio
from relay_wire.channels import GENERAL, GENERAL_UPDATE, MAX_FIELDS, MAX_NAME_LENGTH, MESSAGE, TASK_UPDATE
from relay_wire.creation import MAX_OWNERS, CreationOptions, creation_options
from relay_wire.trace_context import TRACEPARENT

from relay.broker.client_publishes import Publication, Published
from relay.core import extra_channels
from relay.core.channels import ChannelPatterns, task_channel
from relay.core.errors import (
    BadMessage,
    BrokerBusy,
    BrokerError,
    BrokerUnavailable,
    RelayError,
)
from relay.core.grants import Grant, Verb
from relay.protocols.positions import position_json
from relay.server.api_access import refusals, require_write
from relay.server.api_errors import Failure, Refused, failure_of, failure_response
from relay.server.api_responses import (
    body_of_request,
    channel_of_request,
    json_of,
    json_response,
    task_id_of_request,
)
from relay.server.malformed_requests import record_malformed
from relay.server.publish_access import for_writer, outcome_of, targets_of
from relay.server.running_relay import RelayHandle
from relay.server.task_paths import TaskPaths

#: Updates in one batch.
MAX_BATCH = 100

#: Longest idempotency key, in characters.
MAX_KEY_LENGTH = 255

#: The fields of an update, as they reach clients.
Fields = Annotated[
    msgspec.Raw,
    Meta(
        description=f"The fields that changed: an object of up to {MAX_FIELDS} fields. It reaches clients as it is.",
        extra_json_schema={"type": "object", "additionalProperties": True},
    ),
]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
Owner = Annotated[
    Name | Annotated[list[Name], Meta(max_length=MAX_OWNERS)] | None,
    Meta(
        description="The user or group that owns the task, or several of them; an empty list for nobody. Null changes nothing."
    ),
]
Parent = Annotated[
    Name | None,
    Meta(description="The id of the task's parent, which it keeps for its whole life. Null changes nothing."),
]


class TaskUpdate(msgspec.Struct, forbid_unknown_fields=True):
    """An update of a task. The first one creates it."""

    data: Fields
    owner: Owner = None
    parent_id: Parent = None


class GeneralUpdate(msgspec.Struct, forbid_unknown_fields=True):
    """An update for every client. ``{"type":"task_created","task_info":{"task_id":...}}`` announces a task, and creates it."""

    data: Fields
    owner: Owner = None
    parent_id: Parent = None


class ChannelMessage(msgspec.Struct, forbid_unknown_fields=True):
    """A message on an extra channel, which reaches its clients as it is."""

    data: Fields


class BatchItem(msgspec.Struct, forbid_unknown_fields=True):
    """One update of a batch: of a task, or on the channel `general` or an extra channel."""

    data: Fields
    task_id: Name | None = None
    channel: Name | None = None
    owner: Owner = None
    parent_id: Parent = None


class Batch(msgspec.Struct, forbid_unknown_fields=True):
    """Several updates. Those of one task are published in their order."""

    updates: Annotated[list[BatchItem], Meta(min_length=1, max_length=MAX_BATCH)]


class Publisher:
    """Publishes what requests bring.

    Args:
        relay: The relay, once it has started.
        named: The extra channels.
        max_update_bytes: Longest data of an update.

    Attributes:
        max_update_bytes: The same.
    """

    def __init__(self, relay: RelayHandle, named: ChannelPatterns, max_update_bytes: int) -> None:
        self._relay = relay
        self._named = named
        self.max_update_bytes = max_update_bytes

    def task_publication(self, task_id: str, update: TaskUpdate | BatchItem) -> Publication:
        """Return the publication of a task's update. Raises BadMessage."""
        channel = task_channel(task_id)
        return Publication(channel, TASK_UPDATE, self._checked(update.data), _options(update, task_id))

    def general_publication(self, update: GeneralUpdate | BatchItem) -> Publication:
        """Return the publication of a general update; raises as `task_publication`."""
        return Publication(GENERAL, GENERAL_UPDATE, self._checked(update.data), _options(update))

    def channel_publication(self, name: str, data: msgspec.Raw) -> Publication:
        """Return the publication of a message on an extra channel; raises as `task_publication`."""
        if name not in self._named:
            raise Refused(
                404, "unknown_channel", "no such channel; the relay's operator names them in RELAY_EXTRA_CHANNELS"
            )
        return Publication(extra_channels.channel_of(name), MESSAGE, self._checked(data))

    def item_publication(self, item: BatchItem) -> Publication:
        """Return the publication of an item of a batch; raises as the others."""
        if (item.task_id is None) == (item.channel is None):
            raise BadMessage("wrong_type", "an update has either a task_id or a channel")
        if item.task_id is not None:
            return self.task_publication(item.task_id, item)
        if item.channel == GENERAL:
            return self.general_publication(item)
        if item.owner is not None or item.parent_id is not None:
            raise BadMessage("wrong_type", "only tasks have an owner and a parent")
        return self.channel_publication(item.channel or "", item.data)

    def _checked(self, data: msgspec.Raw) -> bytes:
        text = _object(data)
        if len(text) > self.max_update_bytes:
            raise Refused(
                413,
                "update_too_large",
                f"`data` may have {self.max_update_bytes} bytes (RELAY_MAX_UPDATE_BYTES); send less at once",
            )
        return text

    async def publish(self, publication: Publication) -> Published:
        """Publish an update for the request's client.

        Raises:
            Forbidden, Unauthenticated: The client may not.
            BadMessage, BrokerError: It was not published, or that is unknown.
        """
        relay = self._relay.running
        key = _key_of_request()
        grant = await require_write(relay, Verb.PUBLISH, targets_of(publication))
        (published,) = await relay.publishes.publish(
            [for_writer(with_key(publication, grant, key), grant)], request.headers.get(TRACEPARENT)
        )
        outcome = outcome_of(published)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def publish_all(self, items: Sequence[BatchItem]) -> list[Published | RelayError]:
        """Publish the updates of a batch for the request's client. Returns what became of each; raises as `publish`."""
        relay = self._relay.running
        key = _key_of_request()
        for item in items:
            _object(item.data)  # one that is malformed makes the whole batch so
        prepared = [self._prepared(item) for item in items]
        wanted = [target for each in prepared if isinstance(each, Publication) for target in targets_of(each)]
        grant, reasons = await refusals(relay, Verb.PUBLISH, wanted)
        refused = {target: reason for target, reason in zip(wanted, reasons, strict=True) if reason is not None}
        outcomes: dict[int, Published | RelayError] = {}
        accepted: list[tuple[int, Publication]] = []
        for place, each in enumerate(prepared):
            if isinstance(each, RelayError):
                outcomes[place] = each
            elif reason := next((refused[t] for t in targets_of(each) if t in refused), None):
                outcomes[place] = reason
            else:
                keyed = with_key(each, grant, None if key is None else f"{key} {place}")
                accepted.append((place, for_writer(keyed, grant)))
        published = await relay.publishes.publish(
            [publication for _, publication in accepted], request.headers.get(TRACEPARENT)
        )
        outcomes |= {place: outcome_of(outcome) for (place, _), outcome in zip(accepted, published, strict=True)}
        return [outcomes[place] for place in range(len(items))]

    def note_malformed(self, error: BadMessage) -> None:
        """Count an update of a batch that is not taken as it is."""
        failure = failure_of(error)
        record_malformed(self._relay, failure.status, failure.code, failure.message)

    def _prepared(self, item: BatchItem) -> Publication | RelayError:
        try:
            return self.item_publication(item)
        except BadMessage as error:
            return error


def add_publish_api(app: QuartTrio, paths: TaskPaths, publisher: Publisher) -> None:
    """Add the routes that publish to an app.

    Args:
        app: The app.
        paths: The paths of the API.
        publisher: Publishes.
    """

    @app.post(paths.task_route)
    async def publish_task_update() -> Response:
        """Publish an update of a task; the first one creates it."""
        task_id = task_id_of_request()
        publication = publisher.task_publication(task_id, await body_of_request(TaskUpdate))
        return await _published(publisher, publication, {"task_id": task_id})

    @app.post(paths.general_route)
    async def publish_general_update() -> Response:
        """Publish an update for every client."""
        publication = publisher.general_publication(await body_of_request(GeneralUpdate))
        return await _published(publisher, publication, {"channel": GENERAL})

    @app.post(paths.channel_route)
    async def publish_message() -> Response:
        """Publish a message on an extra channel."""
        name = channel_of_request()
        body = await body_of_request(ChannelMessage)
        return await _published(publisher, publisher.channel_publication(name, body.data), {"channel": name})

    @app.post(paths.batch_route)
    async def publish_batch() -> Response:
        """Publish several updates."""
        items = (await body_of_request(Batch)).updates
        try:
            outcomes = await publisher.publish_all(items)
        except BrokerError as error:
            return failure_response(_failure(error))
        for outcome in outcomes:
            if isinstance(outcome, BadMessage):
                publisher.note_malformed(outcome)
        results = [_result(item, outcome) for item, outcome in zip(items, outcomes, strict=True)]
        has_failed = any(isinstance(outcome, RelayError) for outcome in outcomes)
        return json_response(207 if has_failed else 200, json_of({"results": results}))


async def _published(publisher: Publisher, publication: Publication, names: dict[str, str]) -> Response:
    try:
        published = await publisher.publish(publication)
    except BrokerError as error:
        return failure_response(_failure(error))
    headers = {"idempotency-replayed": "true"} if published.is_repeated else {}
    return json_response(200, json_of({**names, "position": position_json(published.position)}), headers)


def _result(item: BatchItem, outcome: Published | RelayError) -> dict[str, Any]:
    names = {"channel": item.channel} if item.task_id is None else {"task_id": item.task_id}
    if isinstance(outcome, RelayError):
        status, code, message, _ = _failure(outcome)
        return {**names, "error": {"status": status, "code": code, "message": message}}
    return {**names, "position": position_json(outcome.position)}


def _failure(error: RelayError) -> Failure:
    """Return why an update was not published, and whether that is certain."""
    match error:
        case BrokerBusy():
            return failure_of(error)._replace(
                message="nothing was published: too many requests wait for Redis; try again"
            )
        case BrokerUnavailable():
            again = (
                "repeat the request as it is"
                if "idempotency-key" in request.headers
                else "with an Idempotency-Key it could be repeated safely"
            )
            return failure_of(error)._replace(
                code="outcome_unknown",
                message=f"Redis did not confirm it, and it may have been published or not; {again}",
            )
    return failure_of(error)


def _object(data: msgspec.Raw) -> bytes:
    text = bytes(data).strip()
    if not text.startswith(b"{"):
        raise BadMessage("wrong_type", "`data` must be a JSON object: the fields that changed")
    return text


def _options(update: TaskUpdate | GeneralUpdate | BatchItem, task_id: str | None = None) -> CreationOptions:
    try:
        return creation_options(update.owner, update.parent_id, task_id=task_id)
    except ValueError as error:
        raise Refused(422, "bad_options", str(error)) from None


def _key_of_request() -> str | None:
    """Return the request's idempotency key, with or without the quotes of a structured field. Raises BadMessage."""
    given = request.headers.get("idempotency-key")
    if given is None:
        return None
    key = given[1:-1] if len(given) >= 2 and given[0] == given[-1] == '"' else given
    if not 0 < len(key) <= MAX_KEY_LENGTH or not key.isascii() or not key.isprintable():
        raise BadMessage(
            "bad_idempotency_key", f"an Idempotency-Key has 1 to {MAX_KEY_LENGTH} printable ASCII characters"
        )
    return key


def with_key(publication: Publication, grant: Grant, key: str | None) -> Publication:
    """Return a publication with its name in Redis: the keys of one client are not those of another."""
    if key is None:
        return publication
    subject = (grant.subject or "").encode()
    name = blake2b(b"%d %b %b" % (len(subject), subject, key.encode()), digest_size=16).hexdigest()
    options = publication.options
    content = json_of([publication.type, sorted(options.owner or ()), options.owner is None, options.parent_id])
    fingerprint = blake2b(content + publication.data, digest_size=8).hexdigest()
    return publication._replace(key=f"http:{name}", fingerprint=fingerprint)
