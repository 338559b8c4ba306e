"""The task protocol of ``/ws/tasks``, as existing frontends speak it: docs/protocol.md has the table."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
from relay_wire.channels import GENERAL, MAX_NAME_LENGTH, TASK_PREFIX
from relay_wire.trace_context import TRACEPARENT

from relay.core.channels import ChannelPatterns, task_channel
from relay.core.closecodes import Close
from relay.core.errors import BadMessage
from relay.core.extra_channels import channel_of, name_of
from relay.core.families import family_channel, is_family, parent_of
from relay.core.recovery import Snapshot, SubscribeResult
from relay.core.updates import Position, Update
from relay.core.whole_values import plain_data
from relay.protocols.base import (
    Authenticate,
    Command,
    End,
    ProtocolDefaults,
    Refusal,
    Reply,
    Subscribe,
    Unsubscribe,
)
from relay.protocols.families import FAMILY, FamilyUpdates
from relay.protocols.positions import position_json


class _Position(msgspec.Struct, gc=False):
    epoch: str
    offset: int


class _Request(msgspec.Struct, gc=False):
    type: Any  # what is no text is as unknown as a word that is not known
    task_id: str | int | None = None
    channel: str | msgspec.UnsetType = msgspec.UNSET
    position: _Position | msgspec.UnsetType | None = msgspec.UNSET
    # Of any type, since these are fields that other messages may always have had.
    token: Any = None
    deltas: Any = None
    children: Any = None
    traces: Any = None


_decode_request = msgspec.json.Decoder(_Request).decode
_json = msgspec.json.Encoder().encode

#: What old frontends may send any number of times: the services that Relay replaces ignored it.
_TOLERATED = frozenset({"unknown_type", "missing_task_id"})

#: Longest epoch that a client may send, and largest offset: what is beyond was never given out.
_MAX_EPOCH = 64
_MAX_OFFSET = 2**53


def is_plausible(position: Position) -> bool:
    """Whether a relay may have sent this position, judged by its form."""
    return len(position.epoch) <= _MAX_EPOCH and 0 <= position.offset <= _MAX_OFFSET


def _utc_now() -> datetime:
    return datetime.now(UTC)


def channel_fields(channel: str) -> dict[str, str | bool]:
    """Return the fields that name a channel in a message to a client."""
    if is_family(channel):
        return {"task_id": parent_of(channel), "children": True}
    return (
        {"task_id": channel[len(TASK_PREFIX) :]} if channel.startswith(TASK_PREFIX) else {"channel": name_of(channel)}
    )


def _subscribed(channel: str, position: Position, recovered: bool | None, *, has_state: bool) -> bytes:
    """Return the answer to a subscribe with a position.

    Args:
        channel: The channel.
        position: Where the channel stands.
        recovered: Whether what came after the client's position follows; None when it gave none.
        has_state: Whether exactly one update with the folded state follows, at the position.
    """
    outcome = {} if recovered is None else {"recovered": recovered}
    answer = {"type": "subscribed", **channel_fields(channel), "position": position_json(position)}
    return _json({**answer, **outcome, "state": has_state})


@lru_cache(maxsize=65_536)
def _prefix(channel: str) -> bytes:
    """Return the beginning of every update of a task."""
    return b'{"type":"task_update","task_id":%b,"data":' % _json(channel[len(TASK_PREFIX) :])


class PlainUpdates:
    """Updates without positions, for clients that did not ask for them.

    Args:
        whole_values: They have no operations on fields, see `relay.core.whole_values`.
    """

    stateful = False

    def __init__(self, *, whole_values: bool = True) -> None:
        self.whole_values = whole_values

    def hides(self, update: Update) -> bool:  # noqa: ARG002 - the contract's
        return False

    def encode(self, update: Update) -> bytes:
        if update.type == "task_update":
            data = plain_data(update) if update.has_operations and self.whole_values else update.data
            return b"".join((_prefix(update.channel), data, b"}"))
        if update.type == "general_update":
            return b'{"type":"general_update","data":%b}' % update.data
        return update.data

    def reset(self, channel: str, snapshot: Snapshot) -> Iterable[bytes]:  # noqa: ARG002 - the contract's
        return [] if snapshot.state is None else [self.encode(snapshot.state)]


class PositionedUpdates(PlainUpdates):
    """Updates for clients that asked for positions. An update without a position was not persisted."""

    def encode(self, update: Update) -> bytes:
        payload = super().encode(update)
        if update.position is None:
            return payload
        body = payload.rstrip()[:-1]
        comma = b"" if body.rstrip().endswith(b"{") else b","
        return b'%b%b"position":%b}' % (body, comma, _json(position_json(update.position)))

    def reset(self, channel: str, snapshot: Snapshot) -> Iterable[bytes]:
        answer = _subscribed(channel, snapshot.top, False, has_state=snapshot.state is not None)
        return [answer, *super().reset(channel, snapshot)]


class TracedUpdates(PositionedUpdates):
    """Updates for clients that asked for positions and for trace contexts, which come in messages of their own."""

    def trace(self, channel: str, position: Position, context: str) -> bytes:
        named = {"type": "trace", **channel_fields(channel)}
        return _json({**named, "position": position_json(position), TRACEPARENT: context})


PLAIN, PLAIN_DELTAS = PlainUpdates(), PlainUpdates(whole_values=False)
POSITIONED, POSITIONED_DELTAS = PositionedUpdates(), PositionedUpdates(whole_values=False)
TRACED, TRACED_DELTAS = TracedUpdates(), TracedUpdates(whole_values=False)


class _UnknownChannel(BadMessage):
    """A client asks for a channel that is not served."""

    def __init__(self, channel: str) -> None:
        super().__init__("unknown_channel", "no such channel; use `task_id` for a task, or a channel that is served")
        self.channel = channel[:MAX_NAME_LENGTH]


def _authenticate(request: _Request) -> Authenticate:
    token = request.token
    if not isinstance(token, str):
        raise BadMessage("missing_token", "authenticate needs a `token`, which is a text")

    def answer(seconds: float | None) -> bytes:
        ends = {} if seconds is None else {"expires_in": round(seconds, 3)}
        return _json({"type": "authenticated", **ends})

    return Authenticate(token, answer)


#: Every client gets general updates without asking, and no answer for that.
_OPENING = (Subscribe(GENERAL, PLAIN, lambda _: (), wants_history=False),)


class TasksProtocol(ProtocolDefaults):
    """One client of ``/ws/tasks``.

    Args:
        named: The operator's channels, to which a client may subscribe with ``{"type":"subscribe","channel":...}``.
        now: The wall clock, for pongs.
    """

    __slots__ = ("_named", "_now")

    def __init__(self, named: ChannelPatterns, now: Callable[[], datetime] = _utc_now) -> None:
        self._named = named
        self._now = now

    def open(self) -> Iterable[Command]:
        return _OPENING

    def receive(self, message: str | bytes) -> Iterable[Command]:
        if isinstance(message, bytes):
            return (End(Close.BINARY),)
        try:
            return (self._read(message),)
        except _UnknownChannel as error:
            # A client may have subscribed to several, so the error names the one.
            answer = {"type": "error", "code": error.code, "message": error.message, "channel": error.channel}
            return (Refusal(error.code, _json(answer)),)
        except BadMessage as error:
            payload = _json({"type": "error", "code": error.code, "message": error.message})
            return (Refusal(error.code, payload, counts=error.code not in _TOLERATED),)

    def _read(self, message: str) -> Command:
        try:
            request = _decode_request(message)
        except msgspec.ValidationError as error:
            raise BadMessage("wrong_type", f"the message is not of the expected form: {error}") from None
        except (msgspec.DecodeError, UnicodeEncodeError) as error:
            raise BadMessage("not_json", f"the message is not JSON: {error}") from None
        except RecursionError:
            raise BadMessage("too_deep", "the message is nested too deeply") from None
        if request.type == "ping":
            return Reply(_json({"type": "pong", "timestamp": self._now().isoformat()}))
        if request.type == "subscribe":
            return self._subscribe(request)
        if request.type == "unsubscribe":
            channel = self._channel_of(request)
            return Unsubscribe(channel, _json({"type": "unsubscribed", **channel_fields(channel)}))
        if request.type == "authenticate":
            return _authenticate(request)
        kinds = "subscribe, unsubscribe, authenticate or ping"
        raise BadMessage("unknown_type", f"unknown type {request.type!r:.66}; expected {kinds}")

    def _channel_of(self, request: _Request) -> str:
        if request.task_id is not None and request.task_id != "":
            channel = task_channel(request.task_id)
            return family_channel(channel) if request.children is True else channel
        name = request.channel
        if name is msgspec.UNSET:
            raise BadMessage("missing_task_id", f"{request.type} needs a `task_id`")
        if name == GENERAL:
            return name
        if name in self._named:
            return channel_of(name)
        raise _UnknownChannel(name)

    def _subscribe(self, request: _Request) -> Subscribe:
        channel = self._channel_of(request)
        answer = {"type": "subscribed", **channel_fields(channel)}
        if request.position is msgspec.UNSET and not is_family(channel):
            # Only tasks have a state that a newcomer would miss.
            wants_history = channel.startswith(TASK_PREFIX)
            encoding = PLAIN_DELTAS if request.deltas is True else PLAIN
            return Subscribe(channel, encoding, lambda _: (_json(answer),), wants_history=wants_history)
        since = None
        if request.position is not None and request.position is not msgspec.UNSET:
            since = Position(request.position.epoch, request.position.offset)
            if not is_plausible(since):
                raise BadMessage("bad_position", "this position was never given out; subscribe with null for a new one")

        def positioned(welcome: SubscribeResult | None) -> Iterable[bytes]:
            assert welcome is not None
            # What a client gets that does not resume, or cannot, is the state.
            has_state = not welcome.recovered and len(welcome.updates) > 0
            return (_subscribed(channel, welcome.position, welcome.recovered, has_state=has_state),)

        if is_family(channel):
            return Subscribe(channel, FAMILY, positioned, since, requires_position=True, filtered=FamilyUpdates)
        whole, deltas = (TRACED, TRACED_DELTAS) if request.traces is True else (POSITIONED, POSITIONED_DELTAS)
        encoding = deltas if request.deltas is True else whole
        return Subscribe(channel, encoding, positioned, since, requires_position=True)

    def refuse(self, code: str, message: str, channel: str) -> Refusal:
        payload = _json({"type": "error", "code": code, "message": message, **channel_fields(channel)})
        return Refusal(code, payload, counts=False)

    def reject(self, code: str, message: str) -> Refusal:
        return Refusal(code, _json({"type": "error", "code": code, "message": message}))

    def expiry_notice(self, seconds: float) -> bytes:
        return _json({"type": "token_expires", "seconds": round(seconds, 3)})
