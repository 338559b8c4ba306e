"""The form by which Mercure's publishers send an update of topics, and the form in which Redis keeps it."""

import re
from posixpath import normpath
from unicodedata import category
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from relay.core.errors import BadMessage
from relay.core.json_errors import NOT_JSON
from relay.core.topics import ANY, MAX_TOPIC
from relay.core.updates import Position

#: The path at which a hub answers.
PATH = "/.well-known/mercure"

#: The type of updates of topics within Relay.
TOPIC_UPDATE = "topic_update"

#: The last event id of a client that wants all that is kept.
EARLIEST = "earliest"

#: Most topics of one update.
MAX_TOPICS = 32

#: Longest id and longest type of an update, in characters.
_MAX_TEXT = 255

#: Most fields of a form.
_MAX_FIELDS = 256

_ID = re.compile(r"#([^:]{1,64}):([0-9]{1,16})")
_json = msgspec.json.Encoder().encode


class TopicUpdate(msgspec.Struct, omit_defaults=True):
    """An update of topics, as a publisher sends it and as Redis keeps it.

    Attributes:
        topics: Its topics, the canonical one first.
        data: Any text.
        private: Only clients that may watch one of the topics get it.
        id: The id that the publisher gives it.
        type: The name of the event.
        retry: Milliseconds after which clients are to reconnect.
    """

    topics: list[str]
    data: str = ""
    private: bool = False
    id: str | None = None
    type: str | None = None
    retry: int | None = None


_decode = msgspec.json.Decoder(TopicUpdate).decode


def id_of(position: Position) -> str:
    """Return the id of an update that its publisher gave none."""
    return f"#{position.epoch}:{position.offset}"


def position_of(event_id: str) -> Position | None:
    """Return the position that `id_of` made an id of; None where it did not."""
    match = _ID.fullmatch(event_id)
    return None if match is None else Position(match[1], int(match[2]))


def checked(name: str, text: str, limit: int) -> str:
    if len(text) > limit:
        raise BadMessage("too_long", f"`{name}` may have {limit} characters")
    if not text.isascii():
        has_control_characters = any(category(character) in ("Cc", "Cf") for character in text)
    else:
        has_control_characters = not text.isprintable()
    if has_control_characters:
        raise BadMessage("bad_character", f"`{name}` must have no control or format characters")
    return text


def _checked_topic(topic: str) -> str:
    if not topic or topic == ANY:
        raise BadMessage("bad_topic", "a topic must not be empty and not be `*`, which selects every topic")
    try:
        path = normpath(unquote(urlsplit(topic).path))
    except ValueError:  # no URL
        path = ""
    if path == PATH or path.startswith(f"{PATH}/"):
        raise BadMessage("bad_topic", f"topics below {PATH} are the hub's own")
    return checked("topic", topic, MAX_TOPIC)


def read_form(body: bytes) -> TopicUpdate:
    """Read the form of a publish request. Fields of other names do not matter.

    Raises:
        BadMessage: It is malformed; the message says how.
    """
    try:
        fields = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError:
        message = f"the body must be application/x-www-form-urlencoded, in UTF-8, with {_MAX_FIELDS} fields at most"
        raise BadMessage("bad_form", message) from None
    topics = list(dict.fromkeys(_checked_topic(value) for name, value in fields if name == "topic"))
    if not 0 < len(topics) <= MAX_TOPICS:
        raise BadMessage("bad_topic", f"an update needs 1 to {MAX_TOPICS} fields `topic`")
    form = dict(fields)
    event_id, kind, retry = (form.get(name) or None for name in ("id", "type", "retry"))
    if event_id is not None and (checked("id", event_id, _MAX_TEXT).startswith("#") or event_id == EARLIEST):
        raise BadMessage("bad_id", f"an id must not begin with # and not be `{EARLIEST}`")
    if kind is not None and checked("type", kind, _MAX_TEXT) == "mercure":
        raise BadMessage("bad_type", "the type `mercure` is the hub's own")
    if retry is not None and not (retry.isascii() and retry.isdigit() and len(retry) <= 9):
        raise BadMessage("bad_retry", "`retry` must be a number of milliseconds")
    milliseconds = None if retry is None else int(retry)
    return TopicUpdate(topics, form.get("data", ""), "private" in form, event_id, kind, milliseconds)


def stored_form(update: TopicUpdate) -> bytes:
    """Return an update as Redis keeps it."""
    return _json(update)


def read_stored(data: bytes) -> TopicUpdate | None:
    """Return an update that Redis has kept; None for what is no update of topics."""
    try:
        return _decode(data)
    except NOT_JSON:
        return None
