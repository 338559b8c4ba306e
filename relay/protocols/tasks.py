"""The task protocol of ``/ws/tasks``, as existing frontends speak it: docs/protocol.md has the table."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import msgspec

from relay.core.channels import GENERAL, TASK_PREFIX, NamedChannels, task_channel
from relay.core.closecodes import Close
from relay.core.errors import BadMessage
from relay.core.updates import Update
from relay.protocols.base import Command, End, Refusal, Reply, Subscribe, Unsubscribe


class _Request(msgspec.Struct, gc=False):
    type: str
    task_id: str | int | msgspec.UnsetType = msgspec.UNSET
    channel: str | msgspec.UnsetType = msgspec.UNSET


_decode_request = msgspec.json.Decoder(_Request).decode
_json = msgspec.json.Encoder().encode


def _utc_now() -> datetime:
    return datetime.now(UTC)


class TasksProtocol:
    """One client of ``/ws/tasks``.

    named: the operator's channels, which a client may follow with ``{"type":"subscribe","channel":...}``
    now:   the wall clock, for pongs
    """

    __slots__ = ("_named", "_now")

    def __init__(self, named: NamedChannels, now: Callable[[], datetime] = _utc_now) -> None:
        self._named = named
        self._now = now

    @staticmethod
    def encode(update: Update) -> bytes:
        if update.type == "task_update":
            task_id = _json(update.channel[len(TASK_PREFIX) :])
            return b'{"type":"task_update","task_id":%b,"data":%b}' % (task_id, update.data)
        if update.type == "general_update":
            return b'{"type":"general_update","data":%b}' % update.data
        return update.data

    def open(self) -> Iterable[Command]:
        return (Subscribe(GENERAL),)

    def receive(self, message: str | bytes) -> Iterable[Command]:
        if isinstance(message, bytes):
            return (End(Close.BINARY),)
        try:
            return (self._read(message),)
        except BadMessage as error:
            return (self.refuse(error.code, error.message),)

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
            channel, words = self._wanted(request)
            return Subscribe(channel, _json({"type": "subscribed", **words}))
        if request.type == "unsubscribe":
            channel, words = self._wanted(request)
            return Unsubscribe(channel, _json({"type": "unsubscribed", **words}))
        kinds = "subscribe, unsubscribe or ping"
        raise BadMessage("unknown_type", f"unknown type {request.type[:64]!r}; expected {kinds}")

    def _wanted(self, request: _Request) -> tuple[str, dict[str, str]]:
        """The channel that a request is about, and the client's words for it, for the answer."""
        if request.task_id is not msgspec.UNSET:
            return task_channel(request.task_id), {"task_id": str(request.task_id)}
        name = request.channel
        if name is msgspec.UNSET:
            raise BadMessage("missing_task_id", f"{request.type} needs a `task_id`")
        if name == GENERAL or name in self._named:
            return name, {"channel": name}
        raise BadMessage("unknown_channel", "no such channel; use `task_id` for a task, or a channel that is served")

    def refuse(self, code: str, message: str) -> Refusal:
        return Refusal(code, _json({"type": "error", "code": code, "message": message}))
