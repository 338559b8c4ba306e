"""Centrifugo's server HTTP API, below a prefix of its own: services that publish to Centrifugo publish to Relay as they are."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec
import trio
from quart import Response, request
from quart_trio import QuartTrio
from relay_wire import keys
from relay_wire.channels import GENERAL, GENERAL_UPDATE, MESSAGE, TASK_PREFIX, TASK_UPDATE
from relay_wire.trace_context import TRACEPARENT

from relay.broker.client_publishes import Publication, Published
from relay.core.channels import ChannelPatterns
from relay.core.client_channels import ClientChannels, channel_of_name
from relay.core.client_orders import order_message
from relay.core.errors import BadMessage, BrokerError, BrokerRefused, Forbidden, RelayError, UpdateConflict
from relay.core.grants import Verb
from relay.core.history_range import HistoryRange
from relay.core.membership import Present
from relay.core.updates import Update
from relay.protocols.centrifugo_api import (
    ApiError,
    Batch,
    Broadcast,
    Channels,
    Command,
    Disconnect,
    ErrorCode,
    History,
    HistoryRemove,
    Info,
    Order,
    Presence,
    PresenceStats,
    Publish,
    Refresh,
    Subscribe,
    Unsubscribe,
    addressed,
    answered,
    answered_batch,
    position_result,
    publication,
    read_command,
)
from relay.server.api_access import LocalWritesOnly, refusals
from relay.server.api_errors import Refused
from relay.server.api_publish import with_key
from relay.server.api_responses import json_of, json_response
from relay.server.cors import header
from relay.server.node_reports import CHANNELS, INFO, merged_channels
from relay.server.publish_access import Target, for_writer, outcome_of, targets_of
from relay.server.running_relay import RelayHandle

#: Most publications of one answer, and bytes of their data, give or take one.
_MAX_PUBLICATIONS = 10_000
_MAX_BYTES = 4 * 1024 * 1024

#: Commands of a batch that are carried out at a time, where it says that they may.
_PARALLEL = 16

Result = Mapping[str, Any]


def with_api_key(scope: Any) -> Any:
    """Return the scope of a request in which ``Authorization: apikey KEY`` stands as ``X-API-Key``."""
    scheme, _, key = (header(scope["headers"], b"authorization") or "").partition(" ")
    if scheme.lower() != "apikey":
        return scope
    others = [(name, value) for name, value in scope["headers"] if name != b"authorization"]
    return {**scope, "headers": [*others, (b"x-api-key", key.strip().encode("latin1"))]}


class CentrifugoApi:
    """Carries out commands for the client of the present request.

    Args:
        handle: The relay, once it has started.
        channels: The channels that Centrifuge clients may name.
        max_update_bytes: Longest data of a publication.
    """

    def __init__(self, handle: RelayHandle, channels: ClientChannels, max_update_bytes: int) -> None:
        self._handle = handle
        self._names = channels
        self._max_update_bytes = max_update_bytes

    async def answer(self, method: str, body: bytes) -> bytes | ApiError:
        """Return the answer to a request, or why there is none.

        Raises:
            BadMessage: The body is malformed. RelayError: The client's credentials do not hold.
        """
        command = read_command(method, body)
        if not isinstance(command, Batch):
            result = await self._result(method, command)
            return result if isinstance(result, ApiError) else answered(result)
        if any(len(each) != 1 for each in command.commands):
            return ApiError(ErrorCode.BAD_REQUEST, "each command of a batch is an object with one method")
        methods = [next(iter(each)) for each in command.commands]
        results: list[Result | ApiError] = [{}] * len(methods)
        limiter = trio.CapacityLimiter(_PARALLEL if command.parallel else 1)

        async def run(place: int, method: str, parameters: bytes) -> None:
            async with limiter:
                results[place] = await self._result_in_batch(method, parameters)

        if command.parallel:
            async with trio.open_nursery() as nursery:
                for place, method in enumerate(methods):
                    nursery.start_soon(run, place, method, bytes(command.commands[place][method]))
        else:
            for place, method in enumerate(methods):
                await run(place, method, bytes(command.commands[place][method]))
        return answered_batch(methods, results)

    async def _result_in_batch(self, method: str, parameters: bytes) -> Result | ApiError:
        try:
            command = read_command(method, parameters)
        except ApiError as error:
            return error
        except BadMessage as error:
            return ApiError(ErrorCode.BAD_REQUEST, error.message)
        if isinstance(command, Batch):
            return ApiError(ErrorCode.BAD_REQUEST, "a batch has no batch in it")
        return await self._result(method, command)

    async def _result(self, method: str, command: Command) -> Result | ApiError:
        try:
            match command:
                case Publish():
                    (result,) = await self._publish(command, [command.channel])
                    return result
                case Broadcast():
                    results = await self._publish(command, command.channels)
                    return {"responses": [msgspec.Raw(answered(each)) for each in results]}
                case History():
                    return await self._history(command)
                case HistoryRemove():
                    return await self._remove_history(command)
                case Presence():
                    present = await self._present(command.channel)
                    return {"presence": {client: msgspec.Raw(info) for client, info in present.clients.items()}}
                case PresenceStats():
                    present = await self._present(command.channel)
                    return {"num_clients": len(present.clients), "num_users": present.user_count}
                case Subscribe() | Unsubscribe() | Disconnect() | Refresh():
                    return await self._give_order(command)
                case Channels():
                    return await self._channels(command)
                case Info():
                    return await self._info()
        except ApiError as error:
            return error
        except LocalWritesOnly:
            raise
        except (Forbidden, Refused, BrokerError) as error:
            return _api_error(error)
        raise AssertionError(method)

    # Channels, and who may.

    def _channel(self, name: str) -> str:
        """Return the channel that a client names. Raises ApiError."""
        if not name:
            raise ApiError(ErrorCode.BAD_REQUEST, "channel is required")
        if not self._names.is_valid(name):
            raise ApiError(ErrorCode.BAD_REQUEST, "the channel's name is empty, too long, or not printable")
        if self._names.find(name) is None:
            raise ApiError(ErrorCode.UNKNOWN_CHANNEL)
        return channel_of_name(name)

    async def _require(self, verb: Verb, channel: str) -> None:
        _, (reason,) = await refusals(self._handle.running, verb, [Target(channel)])
        if reason is not None:
            raise reason

    async def _require_all(self, verb: Verb) -> None:
        """Insist on a verb for everything."""
        grant, _ = await refusals(self._handle.running, verb, [])
        if not grant.scope(verb).everything:
            raise Forbidden

    # The methods.

    async def _publish(self, content: Publish | Broadcast, names: Sequence[str]) -> list[Result | ApiError]:
        data = content.json
        if len(data) > self._max_update_bytes:
            raise ApiError(ErrorCode.BAD_REQUEST, f"data may have {self._max_update_bytes} bytes")
        if not names:
            raise ApiError(ErrorCode.BAD_REQUEST, "channels are required")
        relay = self._handle.running
        results: list[Result | ApiError] = [{}] * len(names)
        publications: dict[int, Publication] = {}
        for place, name in enumerate(names):
            try:
                publications[place] = _publication(self._channel(name), data)
            except ApiError as error:
                results[place] = error
        targets = {place: targets_of(each) for place, each in publications.items()}
        grant, reasons = await refusals(relay, Verb.PUBLISH, [target for each in targets.values() for target in each])
        left = iter(reasons)
        accepted: dict[int, Publication] = {}
        for place, each in publications.items():
            refused = [reason for reason in islice(left, len(targets[place])) if reason is not None]
            if refused:
                results[place] = _api_error(refused[0])
            else:
                key = f"centrifugo {content.idempotency_key}" if content.idempotency_key else None
                accepted[place] = for_writer(with_key(each, grant, key), grant)
        outcomes = await relay.publishes.publish(list(accepted.values()), request.headers.get(TRACEPARENT))
        for place, outcome in zip(accepted, map(outcome_of, outcomes), strict=True):
            results[place] = (
                position_result(outcome.position) if isinstance(outcome, Published) else _api_error(outcome)
            )
        return results

    async def _history(self, command: History) -> Result:
        channel = self._channel(command.channel)
        await self._require(Verb.WATCH, channel)
        if command.reverse and command.since is not None and command.since.offset == 0:
            raise ApiError(ErrorCode.INTERNAL, "reverse needs the offset of a publication")
        limit = _MAX_PUBLICATIONS if command.limit < 0 else min(command.limit, _MAX_PUBLICATIONS)
        wanted = HistoryRange(0, None if command.since is None else command.since.offset, command.reverse)
        history = self._handle.running.admission.context.services.history
        updates: list[Update] = []
        size = 0
        while True:
            part = await history.read(channel, wanted._replace(limit=limit - len(updates)))
            if part.top is None:
                return {"publications": [], "offset": 0, "epoch": ""}
            if command.since is not None and command.since.epoch not in ("", part.top.epoch):
                raise ApiError(ErrorCode.UNRECOVERABLE_POSITION)
            updates += part.updates
            size += sum(len(update.data) for update in part.updates)
            last = part.updates[-1].position if part.updates else None
            if last is None or len(updates) >= limit or size >= _MAX_BYTES:
                return {"publications": [publication(update) for update in updates], **position_result(part.top)}
            wanted = wanted._replace(since=last.offset)

    async def _present(self, name: str) -> Present:
        channel = self._channel(name)
        await self._require(Verb.WATCH, channel)
        namespace = self._names.find(name)
        if namespace is None or not namespace.presence:
            raise ApiError(ErrorCode.NOT_AVAILABLE, "presence is not kept in this channel's namespace")
        return await self._handle.running.admission.context.services.presence.read(channel)

    async def _give_order(self, command: Order) -> Result:
        """Have all relays do something with a user's clients: whether there are any is not known here."""
        order = addressed(command)
        if isinstance(command, Subscribe | Unsubscribe):
            channel = self._channel(command.channel)
            if isinstance(command, Subscribe):
                await self._require(Verb.WATCH, channel)
        await self._require_all(Verb.REVOKE)
        try:
            message = order_message(order)
        except ValueError as error:
            raise ApiError(ErrorCode.BAD_REQUEST, str(error)) from None
        await self._handle.running.redis.publish(keys.ORDERS, message)
        return {}

    async def _remove_history(self, command: HistoryRemove) -> Result:
        channel = self._channel(command.channel)
        await self._require(Verb.PUBLISH, channel)
        await self._handle.running.history.remove(channel)
        return {}

    async def _channels(self, command: Channels) -> Result:
        await self._require_all(Verb.LIST)
        answers = await self._handle.running.nodes.ask(CHANNELS)
        counts = merged_channels(answers.values())
        if command.pattern:
            pattern = ChannelPatterns([command.pattern])
            counts = {name: count for name, count in counts.items() if name in pattern}
        return {"channels": {name: {"num_clients": count} for name, count in counts.items()}}

    async def _info(self) -> Result:
        await self._require_all(Verb.LIST)
        answers = await self._handle.running.nodes.ask(INFO)
        return {"nodes": [msgspec.Raw(each) for each in answers.values()]}


def _publication(channel: str, data: bytes) -> Publication:
    if channel.startswith(TASK_PREFIX):
        return Publication(channel, TASK_UPDATE, data)
    return Publication(channel, GENERAL_UPDATE if channel == GENERAL else MESSAGE, data)


def _api_error(error: RelayError) -> ApiError:
    """Return an error of the relay as one of the API."""
    match error:
        case Forbidden():
            return ApiError(ErrorCode.PERMISSION_DENIED)
        case Refused():
            return ApiError(ErrorCode.LIMIT_EXCEEDED if error.status == 429 else ErrorCode.BAD_REQUEST, error.message)
        case BadMessage():
            return ApiError(ErrorCode.BAD_REQUEST, error.message)
        case UpdateConflict():
            return ApiError(ErrorCode.CONFLICT, error.public_message)
        case BrokerRefused() | BrokerError():
            return ApiError(ErrorCode.INTERNAL, error.public_message)
    raise error


def add_centrifugo_api(app: QuartTrio, prefix: str, api: CentrifugoApi) -> None:
    """Add the routes of the API to an app.

    Args:
        app: The app.
        prefix: What their paths begin with.
        api: Carries the commands out.
    """

    @app.post(f"{prefix}/<method>")
    async def command(method: str) -> Response:
        """Carry out a command."""
        if "api_key" in request.args:
            raise BadMessage("key_in_url", "a key must not be in a URL, where it ends up in logs: send it as X-API-Key")
        body: Any = await request.get_data()
        try:
            result = await api.answer(method, body)
        except ApiError as error:
            result = error
        if not isinstance(result, ApiError):
            return json_response(200, result)
        if result.code is ErrorCode.METHOD_NOT_FOUND:
            return json_response(404, json_of(result.body))
        if request.headers.get("x-centrifugo-error-mode", "").lower() == "transport":
            return json_response(result.code.value[2], json_of(result.body))
        return json_response(200, answered(result))
