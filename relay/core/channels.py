"""Channel names, and what services publish on them with a plain ``PUBLISH``.

A channel is a sequence of updates to which a client can subscribe: ``task:<id>`` for one task, ``general`` for what concerns
everyone, and any Redis channel that the operator names, under its own name.
"""

from collections.abc import Iterable
from re import DOTALL, Match, escape
from re import compile as compile_pattern

import msgspec
from relay_wire.channels import (
    GENERAL,
    GENERAL_UPDATE,
    GENERAL_UPDATES,
    MAX_NAME_LENGTH,
    MESSAGE,
    TASK_PREFIX,
    TASK_UPDATE,
    TASK_UPDATES,
)
from relay_wire.creation import NO_OPTIONS, CreationOptions, creation_options

from relay.core.errors import BadMessage
from relay.core.json_errors import NOT_JSON, bad_message
from relay.core.updates import Update

#: What stands for a field that a message does not have.
_ABSENT = msgspec.Raw()


class _Envelope(msgspec.Struct, gc=False):
    """The shallow part of a published message; ``data`` passes through as the bytes that it came in."""

    type: msgspec.Raw = _ABSENT
    data: msgspec.Raw = _ABSENT
    task_id: str | int | None = None
    owner: str | list[str] | None = None
    parent_id: str | int | None = None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


def task_channel(task_id: str | int) -> str:
    """Return the channel of one task; ids are compared as strings.

    Raises:
        BadMessage: The id is empty or longer than MAX_NAME_LENGTH.
    """
    name = str(task_id)
    if not 0 < len(name) <= MAX_NAME_LENGTH:
        raise BadMessage("bad_task_id", f"task_id must have 1 to {MAX_NAME_LENGTH} characters")
    return TASK_PREFIX + name


_GLOB_PART = compile_pattern(r"(\*+)|(\?)|\[(\^?)((?:\\.|[^\]]-.|[^\]])*)\]?|\\?(.)", DOTALL)
_CLASS_PART = compile_pattern(r"\\(.)|(.)-(.)|(.)", DOTALL)


def _expression(part: Match[str]) -> str:
    """Return what one part of a Redis glob, which is no star, matches, as a regular expression for one character."""
    _, any_character, negated, members, character = part.groups()
    if any_character:
        return "."
    if character is not None:
        return escape(character)
    inside = ""
    for escaped, first, last, single in _CLASS_PART.findall(members):
        low, high = sorted((first, last)) if first else (escaped or single,) * 2
        inside += f"{escape(low)}-{escape(high)}"
    if not inside:
        return "." if negated else "(?!)"
    return f"[{negated}{inside}]"


class _Glob:
    """One glob pattern in Redis' own sense of ``*``, ``?`` and ``[]``.

    Between two stars each part matches one character, so the leftmost place of what is between them is the only one that has
    to be tried. One regular expression with several ``.*`` would try them all.
    """

    def __init__(self, pattern: str) -> None:
        expressions, length = [""], [0]
        # Not fnmatch: there "!" negates instead of "^", and a backslash is a character like any other.
        for part in _GLOB_PART.finditer(pattern):
            if part[1]:
                expressions.append("")
                length.append(0)
            else:
                expressions[-1] += _expression(part)
                length[-1] += 1
        self._segments = [compile_pattern(expression, DOTALL) for expression in expressions]
        self._first_length, self._last_length = length[0], length[-1]

    def matches(self, name: str) -> bool:
        """Whether a name matches, in a time that grows with the lengths of pattern and name at most."""
        first, *between = self._segments
        if not between:
            return first.fullmatch(name) is not None
        last = between.pop()
        position, end = self._first_length, len(name) - self._last_length
        if end < position or first.match(name) is None or last.fullmatch(name, end) is None:
            return False
        for segment in between:
            found = segment.search(name, position, end)
            if found is None:
                return False
            position = found.end()
        return True


class ChannelPatterns:
    """The Redis channels that the operator names, as glob patterns.

    Attributes:
        patterns: The patterns, in the operator's order.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self.patterns = tuple(patterns)
        self._globs = [_Glob(pattern) for pattern in self.patterns]

    def first_match(self, name: str) -> str | None:
        """Return the first pattern that matches a channel's name, or None."""
        for pattern, glob in zip(self.patterns, self._globs, strict=True):
            if glob.matches(name):
                return pattern
        return None

    def __contains__(self, name: str) -> bool:
        return len(name) <= MAX_NAME_LENGTH and self.first_match(name) is not None


#: One escape sequence of JSON; a whole surrogate pair, or a surrogate that may be alone.
_ESCAPE = compile_pattern(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|u[dD]([89a-fA-F])..|.)", DOTALL)


def replace_lone_surrogates(message: bytes) -> bytes:
    """Return JSON text with U+FFFD in place of each escaped surrogate that has no partner.

    Python's encoder writes them for file names with foreign bytes. Browsers read them, and strict parsers refuse the message.
    """
    return _ESCAPE.sub(lambda match: match[0] if match[1] is None else b"\\ufffd", message)


#: A string, in which nothing is looked for, or a number that Python's encoder writes and JSON does not have.
_NO_NUMBER = compile_pattern(rb'"(?:[^"\\]|\\.)*+"?+|(-?Infinity|NaN)', DOTALL)


def replace_non_finite_numbers(message: bytes) -> bytes:
    """Return a message with null in place of NaN and the infinities, which no browser can read."""
    return _NO_NUMBER.sub(lambda match: match[0] if match[1] is None else b"null", message)


def read_published(redis_channel: str, message: bytes, received_at: float, *, strict: bool = False) -> Update:
    """Read what a service published with a plain ``PUBLISH``. docs/protocol.md has a table of all forms.

    The Redis channel decides what a message is; messages on operator-named channels are delivered as they are.

    Args:
        redis_channel: The channel that it was published on.
        message: Its bytes.
        received_at: When it was received, in seconds of the monotonic clock.
        strict: Refuse what is not of the documented form, but was forwarded by services that Relay replaces.

    Raises:
        BadMessage: It is not a JSON object of a known form; the code is for the metrics.
    """
    try:
        return _read_published(redis_channel, message, received_at, strict)
    except BadMessage as error:
        repaired = message
        if error.code == "not_json":
            repaired = replace_non_finite_numbers(replace_lone_surrogates(message))
        if repaired == message:
            raise
    return _read_published(redis_channel, repaired, received_at, strict)


def _read_published(redis_channel: str, message: bytes, received_at: float, strict: bool) -> Update:
    try:
        if not message.isascii():
            message.decode()  # a text frame must be UTF-8 throughout, also in fields that are not read
        if redis_channel not in (TASK_UPDATES, GENERAL_UPDATES):
            msgspec.json.decode(message, type=dict[str, msgspec.Raw])
            return Update(redis_channel, MESSAGE, message.strip(), received_at)
        envelope = _decode_envelope(message)
    except NOT_JSON as error:
        raise bad_message(error) from None
    kind = TASK_UPDATE if redis_channel == TASK_UPDATES else GENERAL_UPDATE
    if strict:
        _check_strictly(envelope, kind)
    data = bytes(envelope.data) or b"{}"
    if kind == GENERAL_UPDATE:
        return Update(GENERAL, kind, data, received_at, options=_options(envelope))
    task_id = envelope.task_id
    if task_id is None or task_id == "":
        raise BadMessage("missing_task_id", f"what is published on {TASK_UPDATES} needs a `task_id`")
    if data[0] != _BRACE and not _is_object(data):
        raise BadMessage("wrong_type", "`data` must be a JSON object: it is a part of the task's fields")
    channel = task_channel(task_id)
    if envelope.owner is None and envelope.parent_id is None:  # nearly all
        return Update(channel, kind, data, received_at)
    return Update(channel, kind, data, received_at, options=_options(envelope, str(task_id)))


#: "{" at the beginning of an object.
_BRACE = 0x7B


def _is_object(raw: bytes) -> bool:
    return raw[:1] == b"{" or raw.lstrip(b" \t\r\n")[:1] == b"{"


def _check_strictly(envelope: _Envelope, kind: str) -> None:
    try:
        given = msgspec.json.decode(envelope.type, type=str) if bytes(envelope.type) else None
    except msgspec.DecodeError:
        raise BadMessage("wrong_type", "`type` must be a text") from None
    if given is None:
        raise BadMessage("wrong_type", f"`type` is missing; expected {kind}")
    if given != kind:
        raise BadMessage("unknown_type", f"unknown type {given[:64]!r}; on this channel {kind} is expected")
    if not _is_object(bytes(envelope.data)):
        raise BadMessage("wrong_type", "`data` must be a JSON object")


def _options(envelope: _Envelope, task_id: str | None = None) -> CreationOptions:
    if envelope.owner is None and envelope.parent_id is None:
        return NO_OPTIONS
    try:
        return creation_options(envelope.owner, envelope.parent_id, task_id=task_id)
    except ValueError as error:
        raise BadMessage("bad_options", str(error)) from None
