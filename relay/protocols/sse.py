"""Server-sent events of ``/events``: the updates of ``/ws/tasks`` for `curl` and `EventSource`.

An event's id holds the positions of all that the client follows, so that the last id that it has received is enough to resume.
"""

from collections.abc import Iterable, Sequence
from random import randint

import msgspec
from relay_wire.channels import FAMILY_STATES

from relay.core.closecodes import Close
from relay.core.families import MayWatch, is_family
from relay.core.recovery import Snapshot, SubscribeResult
from relay.core.updates import Position, Update
from relay.protocols.base import Command, End, ProtocolDefaults, Refusal, Subscribe
from relay.protocols.event_ids import EventId, id_of_one, positions_of
from relay.protocols.families import is_hidden, message_of
from relay.protocols.tasks import PlainUpdates, channel_fields

#: A comment: clients ignore it, proxies see that the connection lives.
HEARTBEAT = b":\n\n"

_json = msgspec.json.Encoder().encode


def retry(low: int, high: int) -> bytes:
    """Return the field that has a client reconnect after a random time, in milliseconds, when the stream has ended."""
    return b"retry: %d\n\n" % randint(low, high)


def _event(kind: str, id: bytes, data: bytes) -> bytes:
    position = b"id: %b\n" % id if id else b""
    if b"\n" in data or b"\r" in data:
        data = b"\ndata: ".join(data.splitlines())
    return b"event: %b\n%bdata: %b\n\n" % (kind.encode(), position, data)


class _Events(PlainUpdates):
    """The events of one client: stateful, since an id holds the positions of all its channels."""

    stateful = True

    def __init__(self, *, whole_values: bool = True) -> None:
        super().__init__(whole_values=whole_values)
        self.id = EventId()
        #: Which tasks of a family the client may watch; None for all.
        self.may_watch: MayWatch | None = None

    def filtered(self, may_watch: MayWatch) -> "_Events":
        self.may_watch = may_watch
        return self

    def hides(self, update: Update) -> bool:
        return self.may_watch is not None and is_family(update.channel) and is_hidden(update, self.may_watch)

    def event(self, kind: str, data: bytes) -> bytes:
        # Without positions the client keeps the id that it has.
        return _event(kind, self.id.encode() if self.id else b"", data)

    def encode(self, update: Update) -> bytes:
        if update.position is not None:
            self.id.set(update.channel, update.position)
        if is_family(update.channel):
            kind = "task_states" if update.type == FAMILY_STATES else "task_update"
            return self.event(kind, message_of(update, self.may_watch, with_position=False))
        return self.event(update.type, super().encode(update))

    def reset(self, channel: str, snapshot: Snapshot) -> Iterable[bytes]:
        self.id.set(channel, snapshot.top)
        return [self.event("reset", _json({"channel": channel})), *super().reset(channel, snapshot)]


class _SingleChannelEvents(PlainUpdates):
    """The events of all clients that follow one channel only: an id depends on the update alone."""

    stateful = False

    def encode(self, update: Update) -> bytes:
        position = update.position
        id = b"" if position is None else id_of_one(update.channel, position)
        return _event(update.type, id, super().encode(update))

    def reset(self, channel: str, snapshot: Snapshot) -> Iterable[bytes]:
        return _Events(whole_values=self.whole_values).reset(channel, snapshot)


_SINGLE, _SINGLE_DELTAS = _SingleChannelEvents(), _SingleChannelEvents(whole_values=False)


class SseProtocol(ProtocolDefaults):
    """One client of ``/events``.

    Args:
        channels: What it follows.
        last_event_id: The last id that it has received, to resume from.
        deltas: It takes operations on fields.
    """

    def __init__(self, channels: Sequence[str], last_event_id: str | None, *, deltas: bool = False) -> None:
        self._channels = channels
        self._since = positions_of(last_event_id, channels) if last_event_id else {}
        self._resuming = bool(last_event_id)
        self._events: PlainUpdates = _SINGLE_DELTAS if deltas else _SINGLE
        if len(channels) > 1 or any(map(is_family, channels)):
            self._events = _Events(whole_values=not deltas)
            for channel, position in (self._since or {}).items():
                self._events.id.set(channel, position)

    def open(self) -> Iterable[Command]:
        for channel in self._channels:
            yield self._subscribe(channel)

    def _subscribe(self, channel: str) -> Subscribe:
        since = (self._since or {}).get(channel)
        if since is None and self._resuming:
            since = Position("", 0)  # it resumes from an id that does not contain this channel: it cannot be recovered

        def answer(welcome: SubscribeResult | None) -> Iterable[bytes]:
            if welcome is None:
                return ()
            events = (
                self._events if isinstance(self._events, _Events) else _Events(whole_values=self._events.whole_values)
            )
            if welcome.recovered is False:
                # The state, if there is one, follows as an update of its own.
                return list(events.reset(channel, Snapshot(welcome.position, None, None)))
            if since is not None:
                events.id.set(channel, since)
            elif not welcome.updates:
                events.id.set(channel, welcome.position)
                return (b"id: %b\n\n" % events.id.encode(),)
            return ()

        filtered = self._events.filtered if is_family(channel) and isinstance(self._events, _Events) else None
        return Subscribe(channel, self._events, answer, since, filtered=filtered)

    def receive(self, message: str | bytes) -> Iterable[Command]:  # noqa: ARG002 - nothing can be said here
        return (End(Close.PROTOCOL_ERROR),)

    def refuse(self, code: str, message: str, channel: str) -> Refusal:
        data = _json({"type": "error", "code": code, "message": message, **channel_fields(channel)})
        return Refusal(code, b"event: error\ndata: %b\n\n" % data, counts=False)

    def reject(self, code: str, message: str) -> Refusal:
        data = _json({"type": "error", "code": code, "message": message})
        return Refusal(code, b"event: error\ndata: %b\n\n" % data)

    def expiry_notice(self, seconds: float) -> bytes:
        data = _json({"type": "token_expires", "seconds": round(seconds, 3)})
        return b"event: token_expires\ndata: %b\n\n" % data
