"""Centrifugo's server HTTP API: requests of its methods in JSON, and answers. docs/centrifugo-api.md has a verdict table."""

from base64 import b64decode
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Annotated, Any

import msgspec

from relay.core.client_orders import (
    AddressedOrder,
    DisconnectOrder,
    RefreshOrder,
    SubscribeOrder,
    UnsubscribeOrder,
)
from relay.core.client_orders import Order as AnyOrder
from relay.core.errors import BadMessage, RelayError
from relay.core.json_errors import NOT_JSON
from relay.core.updates import Position, Update
from relay.core.whole_values import plain_data

#: Most channels of a broadcast, and most commands of a batch.
MAX_CHANNELS = 1000
MAX_COMMANDS = 1000

#: A time, in seconds of the Unix epoch; 0 is never.
_Seconds = Annotated[int, msgspec.Meta(ge=0, le=10**11)]

_json = msgspec.json.Encoder().encode


class ErrorCode(Enum):
    """Errors of the API: the code, the message, and the HTTP status for those who want one."""

    INTERNAL = (100, "internal server error", 500)
    UNKNOWN_CHANNEL = (102, "unknown channel", 404)
    PERMISSION_DENIED = (103, "permission denied", 403)
    METHOD_NOT_FOUND = (104, "method not found", 404)
    BAD_REQUEST = (107, "bad request", 400)
    NOT_AVAILABLE = (108, "not available", 400)
    LIMIT_EXCEEDED = (111, "too many requests", 429)
    UNRECOVERABLE_POSITION = (112, "unrecoverable position", 416)
    CONFLICT = (113, "conflict", 409)


class ApiError(RelayError):
    """A command is not carried out.

    Attributes:
        code: Which error it is.
        detail: What is wrong, where the error's own message does not say it.
    """

    def __init__(self, code: ErrorCode, detail: str = "") -> None:
        super().__init__(detail or code.value[1])
        self.code = code

    @property
    def body(self) -> dict[str, Any]:
        """The error as it stands in an answer."""
        number, name, _ = self.code.value
        text = str(self)
        return {"code": number, "message": name if text == name else f"{name}: {text}"}


def json_of(raw: msgspec.Raw, encoded: str, name: str) -> bytes:
    """Return a value of a request, given as JSON or as the base64 of JSON; nothing where it is not given.

    Raises:
        ApiError: It is not the base64 of JSON.
    """
    if not encoded:
        return bytes(raw).strip()
    try:
        text = b64decode(encoded, validate=True)
        msgspec.json.decode(text)
        text.decode()
    except (ValueError, msgspec.DecodeError, RecursionError):
        raise ApiError(ErrorCode.BAD_REQUEST, f"{name} must be the base64 of JSON") from None
    return text.strip()


class _Content(msgspec.Struct):
    """What is published."""

    data: msgspec.Raw = msgspec.Raw()
    b64data: str = ""
    skip_history: bool = False
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    idempotency_key: str = ""
    delta: bool = False
    version: int = 0
    version_epoch: str = ""

    @property
    def json(self) -> bytes:
        """The data, as a JSON object. Raises ApiError."""
        if self.skip_history or self.tags or self.version:
            raise ApiError(ErrorCode.NOT_AVAILABLE, "there are no skip_history, tags and version here")
        raw = json_of(self.data, self.b64data, "b64data")
        if not raw.startswith(b"{"):
            raise ApiError(ErrorCode.BAD_REQUEST, "data must be a JSON object")
        return raw


class Publish(_Content):
    """Publish to a channel."""

    channel: str = ""


class Broadcast(_Content):
    """Publish the same to several channels."""

    channels: list[str] = msgspec.field(default_factory=list)


class StreamPosition(msgspec.Struct):
    """A position in a channel."""

    offset: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    epoch: Annotated[str, msgspec.Meta(max_length=64)] = ""


class History(msgspec.Struct):
    """Read a channel's history; without a limit only where it stands."""

    channel: str = ""
    limit: int = 0
    since: StreamPosition | None = None
    reverse: bool = False


class HistoryRemove(msgspec.Struct):
    """Delete a channel's history."""

    channel: str = ""


class Presence(msgspec.Struct):
    """Say who is subscribed to a channel."""

    channel: str = ""


class PresenceStats(msgspec.Struct):
    """Say how many are subscribed to a channel."""

    channel: str = ""


class Channels(msgspec.Struct):
    """List the channels that somebody follows, on any relay."""

    pattern: str = ""


class Info(msgspec.Struct):
    """Say which relays there are."""


class _Addressed(msgspec.Struct):
    """Whom a command is for: the clients of a user, or one of them."""

    user: str = ""
    client: str = ""
    session: str = ""


class Subscribe(_Addressed):
    """Subscribe clients to a channel."""

    channel: str = ""
    info: msgspec.Raw = msgspec.Raw()
    b64info: str = ""
    data: msgspec.Raw = msgspec.Raw()
    b64data: str = ""
    expire_at: _Seconds = 0
    recover_since: StreamPosition | None = None
    override: msgspec.Raw = msgspec.Raw()


class Unsubscribe(_Addressed):
    """End a subscription of clients."""

    channel: str = ""


class DisconnectCode(msgspec.Struct):
    """How a connection ends."""

    code: Annotated[int, msgspec.Meta(ge=3000, le=4999)] = 3503
    reason: Annotated[str, msgspec.Meta(max_length=100)] = "force disconnect"


class Disconnect(_Addressed):
    """End the connections of clients."""

    whitelist: Annotated[list[str], msgspec.Meta(max_length=MAX_CHANNELS)] = msgspec.field(default_factory=list)
    disconnect: DisconnectCode | None = None


class Refresh(_Addressed):
    """Change when the connections of clients end."""

    expired: bool = False
    expire_at: _Seconds = 0
    info: msgspec.Raw = msgspec.Raw()


class Batch(msgspec.Struct):
    """Several commands."""

    commands: list[dict[str, msgspec.Raw]]
    parallel: bool = False


#: Commands for connected clients.
Order = Subscribe | Unsubscribe | Disconnect | Refresh

Command = Publish | Broadcast | History | HistoryRemove | Presence | PresenceStats | Channels | Info | Order | Batch

#: The types of the methods' requests.
METHODS: Mapping[str, type[Command]] = {
    "publish": Publish,
    "broadcast": Broadcast,
    "history": History,
    "history_remove": HistoryRemove,
    "presence": Presence,
    "presence_stats": PresenceStats,
    "subscribe": Subscribe,
    "unsubscribe": Unsubscribe,
    "disconnect": Disconnect,
    "refresh": Refresh,
    "channels": Channels,
    "info": Info,
    "batch": Batch,
}


def read_command(method: str, body: bytes) -> Command:
    """Read a request.

    Args:
        method: Its method.
        body: Its parameters, as a JSON object.

    Raises:
        ApiError: There is no such method.
        BadMessage: The body is malformed.
    """
    if method not in METHODS:
        raise ApiError(ErrorCode.METHOD_NOT_FOUND)
    try:
        body.decode()
        command: Command = msgspec.json.decode(body or b"{}", type=METHODS[method])
    except UnicodeDecodeError:
        raise BadMessage("invalid_utf8", "the body is not valid UTF-8") from None
    except msgspec.ValidationError as error:
        raise ApiError(ErrorCode.BAD_REQUEST, str(error)) from None
    except NOT_JSON as error:
        raise BadMessage("not_json", f"the body is not JSON: {error}") from None
    if len(getattr(command, "channels", ())) > MAX_CHANNELS or len(getattr(command, "commands", ())) > MAX_COMMANDS:
        raise ApiError(ErrorCode.BAD_REQUEST, f"at most {MAX_CHANNELS} channels or commands at once")
    return command


def addressed(command: Order) -> AddressedOrder:
    """Return what relays are asked to do for a command.

    Raises:
        ApiError: It has nobody whom it is for, or wants what there is not.
    """
    if command.session:
        raise ApiError(ErrorCode.NOT_AVAILABLE, "clients have no session here: name them by `client`")
    if not command.user and not command.client:
        raise ApiError(ErrorCode.BAD_REQUEST, "user is required")
    spared: Sequence[str] = ()
    order: AnyOrder
    match command:
        case Subscribe():
            order = _subscribe_order(command)
        case Unsubscribe():
            order = UnsubscribeOrder(command.channel)
        case Disconnect():
            how = command.disconnect or DisconnectCode()
            order, spared = DisconnectOrder(how.code, how.reason), command.whitelist
        case Refresh():
            if bytes(command.info):
                raise ApiError(ErrorCode.NOT_AVAILABLE, "a client's info cannot be changed")
            order = RefreshOrder(command.expired, command.expire_at or None)
    return AddressedOrder(order, command.user, command.client, spared)


def _subscribe_order(command: Subscribe) -> SubscribeOrder:
    if bytes(command.override):
        raise ApiError(ErrorCode.NOT_AVAILABLE, "the options of a channel are those of its namespace")
    since = command.recover_since
    return SubscribeOrder(
        command.channel,
        json_of(command.info, command.b64info, "b64info").decode(),
        json_of(command.data, command.b64data, "b64data").decode(),
        command.expire_at or None,
        None if since is None else since.offset,
        "" if since is None else since.epoch,
    )


def position_result(position: Position) -> dict[str, Any]:
    """Return a position as it stands in a result."""
    return {"offset": position.offset, "epoch": position.epoch}


def publication(update: Update) -> dict[str, Any]:
    """Return an update as it stands in a history."""
    assert update.position is not None  # what comes from Redis has one
    data = plain_data(update) if update.has_operations else update.data
    return {"data": msgspec.Raw(data), "offset": update.position.offset}


def answered(result: Mapping[str, Any] | ApiError) -> bytes:
    """Return the answer to a command."""
    return _json({"error": result.body} if isinstance(result, ApiError) else {"result": result})


def answered_batch(methods: Sequence[str], results: Sequence[Mapping[str, Any] | ApiError]) -> bytes:
    """Return the answer to a batch."""
    replies = [
        {"error": result.body} if isinstance(result, ApiError) else {method: result}
        for method, result in zip(methods, results, strict=True)
    ]
    return _json({"replies": replies})
