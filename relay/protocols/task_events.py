"""The task protocol over an event stream: what `/ws/tasks` would say, for clients whose WebSockets do not get through.

``GET /events?subscribe=[{"task_id":"t","position":null},...]`` subscribes as a client of `/ws/tasks` that opts in to positions.
Each message is the data of one event.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import msgspec

from relay.core.channels import ChannelPatterns
from relay.core.errors import BadMessage
from relay.core.recovery import Snapshot, SubscribeResult
from relay.core.updates import Update
from relay.protocols.base import Command, Refusal, Reply, Subscribe
from relay.protocols.families import FamilyUpdates
from relay.protocols.tasks import PositionedUpdates, TasksProtocol

_decode = msgspec.json.Decoder(list[dict[str, Any]]).decode
_json = msgspec.json.Encoder().encode


def _event(message: bytes) -> bytes:
    return b"".join((b"data: ", b"\ndata: ".join(message.splitlines()), b"\n\n"))


class _PositionedEvents(PositionedUpdates):
    """Updates with positions, each as an event."""

    def encode(self, update: Update) -> bytes:
        return _event(super().encode(update))

    def reset(self, channel: str, snapshot: Snapshot) -> Iterable[bytes]:
        first, *rest = super().reset(channel, snapshot)
        return [_event(first), *rest]


_EVENTS = _PositionedEvents()


class _FamilyEvents(FamilyUpdates):
    """Updates of families, each as an event."""

    def encode(self, update: Update) -> bytes:
        return _event(super().encode(update))

    def reset(self, channel: str, snapshot: Snapshot) -> Iterable[bytes]:
        first, *rest = super().reset(channel, snapshot)
        return [_event(first), *rest]


_FAMILY_EVENTS = _FamilyEvents()


class TaskEventsProtocol(TasksProtocol):
    """One client of an event stream that subscribes in its query.

    Args:
        named: The operator's channels.
        query: The text of the parameter ``subscribe``.

    Raises:
        BadMessage: The query is no JSON list of subscriptions.
    """

    __slots__ = ("_requests",)

    def __init__(self, named: ChannelPatterns, query: str) -> None:
        super().__init__(named)
        try:
            requests = _decode(query)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            requests = []
        if not requests:
            example = '[{"task_id":"t","position":null}]'
            raise BadMessage("bad_query", f"`subscribe` must be a JSON list of what to subscribe to, such as {example}")
        self._requests = requests

    @property
    def count(self) -> int:
        """How many channels it subscribes to."""
        return len(self._requests)

    def open(self) -> Iterable[Command]:
        for request in self._requests:
            message = _json({"position": None, **request, "type": "subscribe"}).decode()
            for command in super().receive(message):
                yield _as_events(command)

    def receive(self, message: str | bytes) -> Iterable[Command]:  # noqa: ARG002 - nothing can be said here
        return ()

    def refuse(self, code: str, message: str, channel: str) -> Refusal:
        return _event_of(super().refuse(code, message, channel))

    def reject(self, code: str, message: str) -> Refusal:
        return _event_of(super().reject(code, message))

    def expiry_notice(self, seconds: float) -> bytes:
        return _event(super().expiry_notice(seconds))


def _event_of(refusal: Refusal) -> Refusal:
    return replace(refusal, payload=_event(refusal.payload))


def _as_events(command: Command) -> Command:
    """Return a command whose answers are events. Refusals are replies: an error ends no stream."""
    if isinstance(command, Subscribe):
        if command.filtered is not None:
            answer = _answered(command.answer)
            return msgspec.structs.replace(command, encoding=_FAMILY_EVENTS, answer=answer, filtered=_FamilyEvents)
        return msgspec.structs.replace(command, encoding=_EVENTS, answer=_answered(command.answer))
    if isinstance(command, Refusal):
        return Reply(_event(command.payload))
    return command


def _answered(
    answer: Callable[[SubscribeResult | None], Iterable[bytes]],
) -> Callable[[SubscribeResult | None], Iterable[bytes]]:
    def answer_events(result: SubscribeResult | None) -> Iterable[bytes]:
        return [_event(message) for message in answer(result)]

    return answer_events
