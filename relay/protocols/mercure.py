"""Mercure: updates of topics over server-sent events. docs/mercure.md has a verdict table.

A client follows topics, and perhaps tasks. Events of a client that follows topics only have the ids that their publishers gave
them, or else their position, which is the same for every client. One that follows tasks too has ids as on ``/events``.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec
from relay_wire.channels import GENERAL, TASK_PREFIX

from relay.core.channels import ChannelPatterns, task_channel
from relay.core.closecodes import Close
from relay.core.errors import BadMessage
from relay.core.extra_channels import channel_of
from relay.core.grants import Decision, Grant, Scope, Verb
from relay.core.recovery import Snapshot, SubscribeResult
from relay.core.topics import ANY, MAX_TOPIC, TOPIC_PREFIX, TOPICS, any_matches, is_template
from relay.core.updates import Position, Update
from relay.protocols.base import Command, End, ProtocolDefaults, Refusal, Subscribe
from relay.protocols.event_ids import EventId, positions_of
from relay.protocols.mercure_forms import TopicUpdate, checked, id_of, read_stored
from relay.protocols.tasks import PlainUpdates

#: Most templates of one client: each is compared with the topics of each update.
MAX_TEMPLATES = 32

_LINE_END = re.compile(r"\r\n|\r|\n")
_json = msgspec.json.Encoder().encode


def channel_of_topic(topic: str, named: ChannelPatterns) -> str | None:
    """Return the channel of a topic that has one of its own: a task's, general updates', an extra channel's; else None.

    Raises:
        BadMessage: It is that of a task whose id is empty or too long.
    """
    if topic.startswith(TASK_PREFIX):
        return task_channel(topic[len(TASK_PREFIX) :])
    if topic == GENERAL:
        return GENERAL
    return channel_of(topic) if topic in named else None


# Events.


@lru_cache(maxsize=256)
def _read_stored(data: bytes, position: Position | None) -> tuple[TopicUpdate, bytes] | None:
    """Return an update of topics and its event, which is the same for all clients; None for what was not published here."""
    update = read_stored(data)
    if update is None:
        return None
    event_id = update.id or (None if position is None else id_of(position))
    return update, event(update.data, event_id, update.type, update.retry)


def topics_of(update: Update) -> Sequence[str]:
    """Return the topics of an update on the channel of all topics."""
    stored = _read_stored(update.data, update.position)
    return () if stored is None else stored[0].topics


def event(data: str, event_id: str | None, kind: str | None = None, retry: int | None = None) -> bytes:
    """Return an event of the stream. Line breaks in the data, of whatever kind, become those of the stream."""
    lines = [
        f"{name}: {value}" for name, value in (("event", kind), ("retry", retry), ("id", event_id)) if value is not None
    ]
    lines += [f"data: {line}" for line in _LINE_END.split(data)]
    return ("\n".join(lines) + "\n\n").encode()


class Selection(msgspec.Struct, frozen=True):
    """What a client wants of the topics that have no channel.

    Attributes:
        topics: Topics, by their exact text.
        templates: Selectors that may match more.
    """

    topics: frozenset[str]
    templates: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.topics or self.templates)

    def wants(self, topics: Iterable[str]) -> bool:
        """Whether an update with these topics is wanted."""
        return any(topic in self.topics or any_matches(self.templates, topic) for topic in topics)


class _TopicEvents:
    """The events of all clients that want the same topics, and may watch the same ones.

    Args:
        selection: What they want.
        grant: What they may do.
    """

    stateful = False
    whole_values = False

    def __init__(self, selection: Selection, grant: Grant) -> None:
        self._selection = selection
        self._grant = grant
        self.keys = None if selection.templates else selection.topics

    def topic_event(self, update: Update) -> bytes:
        """Return the event of an update; nothing if these clients do not want it or may not have it."""
        stored = _read_stored(update.data, update.position)
        if stored is None:
            return b""
        content, payload = stored
        if not self._selection.wants(content.topics) or (content.private and not self._may_watch(content.topics)):
            return b""
        return payload

    def _may_watch(self, topics: Iterable[str]) -> bool:
        decide = self._grant.decide
        return any(decide(Verb.WATCH, TOPIC_PREFIX + topic) is Decision.ALLOWED for topic in topics)

    def hides(self, update: Update) -> bool:  # noqa: ARG002 - the contract's
        return False

    def encode(self, update: Update) -> bytes:
        return self.topic_event(update)

    def reset(self, channel: str, snapshot: Snapshot) -> Iterable[bytes]:
        return [event(_json({"channel": channel}).decode(), id_of(snapshot.top), "reset")]


@lru_cache(maxsize=16_384)
def _topic_events(selection: Selection, scope: Scope) -> _TopicEvents:
    """Return the one encoding for a selection and what may be watched."""
    return _TopicEvents(selection, Grant({Verb.WATCH: scope}))


class _MixedEvents(_TopicEvents):
    """The events of one client that follows tasks or other channels too: an id has the positions of all of them."""

    stateful = True
    whole_values = True

    def __init__(self, selection: Selection, grant: Grant) -> None:
        super().__init__(selection, grant)
        self.id = EventId()
        self._plain = PlainUpdates()

    def encode(self, update: Update) -> bytes:
        if update.channel != TOPICS:
            payload = self._plain.encode(update)
            self._advance(update)
            return event(payload.decode(), self._encoded_id())
        if not self.topic_event(update):
            return b""
        stored = _read_stored(update.data, update.position)
        assert stored is not None
        content = stored[0]
        self._advance(update)
        return event(content.data, self._encoded_id(), content.type, content.retry)

    def _advance(self, update: Update) -> None:
        if update.position is not None:
            self.id.set(update.channel, update.position)

    def _encoded_id(self) -> str | None:
        return self.id.encode().decode() if self.id else None

    def reset(self, channel: str, snapshot: Snapshot) -> Iterable[bytes]:
        self.id.set(channel, snapshot.top)
        payloads = [event(_json({"channel": channel}).decode(), self._encoded_id(), "reset")]
        if snapshot.state is not None:
            payloads.append(self.encode(snapshot.state))
        return payloads

    def position_event(self, channel: str, position: Position) -> bytes:
        """Note where the client stands, and return what has it know that."""
        self.id.set(channel, position)
        return b"id: %b\n\n" % self.id.encode()


class Selectors(msgspec.Struct, frozen=True):
    """What a client asks for.

    Attributes:
        channels: The channels of topics that have one.
        selection: All others.
    """

    channels: tuple[str, ...]
    selection: Selection

    @property
    def count(self) -> int:
        """How many subscriptions that is."""
        return len(self.channels) + len(self.selection.topics) + len(self.selection.templates)


def read_selectors(query: Iterable[tuple[str, str]], named: ChannelPatterns, limit: int) -> Selectors:
    """Read the parameters of a subscription: ``topic`` is a text or a URI template, ``match`` a text.

    Args:
        query: The decoded parameters.
        named: The extra channels.
        limit: Most selectors.

    Raises:
        BadMessage: A selector is malformed or not supported, or there is none or there are too many.
    """
    channels: dict[str, None] = {}
    topics: set[str] = set()
    templates: set[str] = set()
    for name, value in query:
        if name.lower().startswith("match") and name not in ("match", "match_exact"):
            raise BadMessage(
                "unknown_matcher", "this relay matches by `match`, `match_exact`, and `topic` with URI templates"
            )
        if name not in ("topic", "match", "match_exact"):
            continue
        selector = checked(name, value, MAX_TOPIC)
        if not selector:
            raise BadMessage("bad_topic", "a topic must not be empty")
        if selector == ANY or (name == "topic" and is_template(selector)):
            templates.add(selector)
        elif (channel := channel_of_topic(selector, named)) is not None:
            channels[channel] = None
        else:
            topics.add(selector)
    selectors = Selectors(tuple(channels), Selection(frozenset(topics), frozenset(templates)))
    if not selectors.count:
        raise BadMessage("nothing_wanted", "say what to follow: ?topic=... (repeatable)")
    if selectors.count > limit or len(templates) > MAX_TEMPLATES:
        message = f"at most {limit} topics on one connection, of which {MAX_TEMPLATES} may be templates"
        raise BadMessage("too_many_subscriptions", message)
    return selectors


class MercureProtocol(ProtocolDefaults):
    """One client of the hub.

    Args:
        selectors: What it follows.
        grant: What it may watch.
        last_event_id: The last id that it has received; None for a newcomer.
        since: Where it stands in the channel of all topics, if it follows any; None where that cannot be known.
    """

    def __init__(self, selectors: Selectors, grant: Grant, last_event_id: str | None, since: Position | None) -> None:
        self._selectors = selectors
        self._is_resuming = last_event_id is not None
        positions = positions_of(last_event_id or "", selectors.channels) if selectors.channels else None
        self._since = {**(positions or {}), TOPICS: since or Position("", 0)}
        self._mixed = _MixedEvents(selectors.selection, grant) if selectors.channels else None
        self._events = self._mixed or _topic_events(selectors.selection, grant.scope(Verb.WATCH))

    def open(self) -> Iterable[Command]:
        for channel in self._selectors.channels:
            yield self._subscribe(channel)
        if self._selectors.selection:
            yield self._subscribe(TOPICS)

    def _subscribe(self, channel: str) -> Subscribe:
        since = self._since.get(channel)
        if since is None and self._is_resuming:
            since = Position("", 0)  # its id does not have this channel: it cannot be recovered

        def answer(result: SubscribeResult | None) -> Iterable[bytes]:
            if result is None:
                return ()
            if result.recovered is False:
                # The state, if there is one, follows as an update of its own.
                return list(self._events.reset(channel, Snapshot(result.position, None, None)))
            if self._mixed is not None:
                start = since if since is not None else result.position
                return (self._mixed.position_event(channel, start),) if since is not None or not result.updates else ()
            assert since is not None
            # A newcomer that is cut off before its first event resumes from here.
            return () if self._is_resuming else (f"id: {id_of(since)}\n\n".encode(),)

        return Subscribe(channel, self._events, answer, since, requires_position=channel == TOPICS)

    def receive(self, message: str | bytes) -> Iterable[Command]:  # noqa: ARG002 - nothing can be said here
        return (End(Close.PROTOCOL_ERROR),)

    def refuse(self, code: str, message: str, channel: str) -> Refusal:
        return _refusal(code, message, counts=False, channel=channel)

    def reject(self, code: str, message: str) -> Refusal:
        return _refusal(code, message)

    def expiry_notice(self, seconds: float) -> bytes:
        return event(_json({"seconds": round(seconds, 3)}).decode(), None, "token_expires")


def _refusal(code: str, message: str, *, counts: bool = True, **names: str) -> Refusal:
    data = _json({"code": code, "message": message, **names}).decode()
    return Refusal(code, event(data, None, "error"), counts=counts)
