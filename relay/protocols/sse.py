"""Server-sent events of ``/events``: the updates of ``/ws/tasks`` for `curl` and `EventSource`.

An event's id holds the positions of all that the client follows, so that whichever id it saw last says all. To clients it
is opaque.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from random import randint

import msgspec

from relay.core.closecodes import Close
from relay.core.recovery import Snapshot, SubscribeResult
from relay.core.updates import Position, Update
from relay.protocols.base import Command, End, Refusal, Subscribe
from relay.protocols.tasks import PlainUpdates, is_plausible

#: A comment: clients ignore it, proxies see that the connection lives.
HEARTBEAT = b":\n\n"

#: Longest id that is looked at. One of 64 channels has some 4 KiB.
_MAX_ID = 64 * 1024

_json = msgspec.json.Encoder().encode
_decode_positions = msgspec.json.Decoder(dict[str, tuple[str, int]]).decode


def retry(low: int, high: int) -> bytes:
    """Tell the client to come back after a random time, in milliseconds, when the connection has ended."""
    return b"retry: %d\n\n" % randint(low, high)


def event_id(positions: Mapping[str, Position]) -> bytes:
    """The id that holds these positions."""
    return urlsafe_b64encode(_json(positions))


def positions_of(last_event_id: str) -> dict[str, Position] | None:
    """The positions in an id; None when it is none of ours."""
    if len(last_event_id) > _MAX_ID:
        return None
    try:
        found = _decode_positions(urlsafe_b64decode(last_event_id.encode("ascii")))
    except (ValueError, msgspec.DecodeError):
        return None
    positions = {channel: Position(*position) for channel, position in found.items()}
    return positions if all(map(is_plausible, positions.values())) else None


class _Events(PlainUpdates):
    """The events of one client: stateful, since an id holds the positions of all that it follows."""

    stateful = True

    def __init__(self) -> None:
        self.positions: dict[str, Position] = {}

    def event(self, kind: str, data: bytes) -> bytes:
        lines = b"\n".join(b"data: " + line for line in data.splitlines())
        # Without positions the client keeps the id that it has.
        told = b"id: %b\n" % event_id(self.positions) if self.positions else b""
        return b"event: %b\n%b%b\n\n" % (kind.encode(), told, lines)

    def encode(self, update: Update) -> bytes:
        if update.position is not None:
            self.positions[update.channel] = update.position
        return self.event(update.type, super().encode(update))

    def reset(self, channel: str, snapshot: Snapshot) -> Iterable[bytes]:
        self.positions[channel] = snapshot.top
        return [self.event("reset", _json({"channel": channel})), *super().reset(channel, snapshot)]


class _EventsOfOne(PlainUpdates):
    """The events of all clients that follow one channel only: an id depends on nothing but the update."""

    stateful = False

    def encode(self, update: Update) -> bytes:
        events = _Events()
        return events.encode(update)

    def reset(self, channel: str, snapshot: Snapshot) -> Iterable[bytes]:
        return _Events().reset(channel, snapshot)


_OF_ONE = _EventsOfOne()


class SseProtocol:
    """One client of ``/events``.

    channels:      what it follows
    last_event_id: the id that it saw last, to resume from
    """

    def __init__(self, channels: Sequence[str], last_event_id: str | None) -> None:
        self._channels = channels
        self._since = positions_of(last_event_id) if last_event_id else {}
        self._resuming = bool(last_event_id)
        self._events: PlainUpdates = _OF_ONE
        if len(channels) > 1:
            self._events = _Events()
            known = self._since or {}
            self._events.positions.update({channel: known[channel] for channel in channels if channel in known})

    def open(self) -> Iterable[Command]:
        for channel in self._channels:
            yield self._subscribe(channel)

    def _subscribe(self, channel: str) -> Subscribe:
        since = (self._since or {}).get(channel)
        if since is None and self._resuming:
            since = Position("", 0)  # it resumes from an id that says nothing of this channel: it cannot be recovered

        def answer(welcome: SubscribeResult | None) -> Iterable[bytes]:
            if welcome is None:
                return ()
            events = self._events if isinstance(self._events, _Events) else _Events()
            if welcome.recovered is False:
                # The state, if there is one, follows as an update of its own.
                return list(events.reset(channel, Snapshot(welcome.position, None, None)))
            if since is not None:
                events.positions[channel] = since
            elif not welcome.updates:
                events.positions[channel] = welcome.position
                return (b"id: %b\n\n" % event_id(events.positions),)
            return ()

        return Subscribe(channel, self._events, answer, since)

    def receive(self, message: str | bytes) -> Iterable[Command]:  # noqa: ARG002 - nothing can be said here
        return (End(Close.PROTOCOL_ERROR),)

    def refuse(self, code: str, message: str) -> Refusal:
        data = _json({"type": "error", "code": code, "message": message})
        return Refusal(code, b"event: error\ndata: %b\n\n" % data)
