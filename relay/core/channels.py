"""Channel names, and what today's services publish under them.

A channel is a line of updates that a client can follow: ``task:<id>`` for one task, ``general`` for what concerns
everyone, and any Redis channel that the operator names, under its own name.
"""

from collections.abc import Iterable
from re import DOTALL, Match, escape
from re import compile as compile_pattern

import msgspec
from relay_wire.channels import (
    GENERAL,
    GENERAL_UPDATES,
    MAX_NAME_LENGTH,
    TASK_PREFIX,
    TASK_UPDATES,
)

from relay.core.errors import BadMessage
from relay.core.updates import Update


class _Envelope(msgspec.Struct, gc=False):
    """The shallow part of a published message; ``data`` passes through as the bytes that it came in."""

    type: str
    data: msgspec.Raw = msgspec.Raw()
    task_id: str | int | None = None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


def task_channel(task_id: str | int) -> str:
    """The channel of one task; ids are compared as strings.

    Raises BadMessage when the id is empty or longer than MAX_NAME_LENGTH.
    """
    name = str(task_id)
    if not 0 < len(name) <= MAX_NAME_LENGTH:
        raise BadMessage("bad_task_id", f"task_id must have 1 to {MAX_NAME_LENGTH} characters")
    return TASK_PREFIX + name


_GLOB_PART = compile_pattern(r"(\*+)|(\?)|\[(\^?)((?:\\.|[^\]]-.|[^\]])*)\]?|\\?(.)", DOTALL)
_CLASS_PART = compile_pattern(r"\\(.)|(.)-(.)|(.)", DOTALL)


def _expression(part: Match[str]) -> str:
    """One part of a Redis glob as a regular expression."""
    stars, any_one, negated, members, character = part.groups()
    if stars:
        return ".*"
    if any_one:
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


class ChannelPatterns:
    """The Redis channels that the operator names, as glob patterns in Redis' own sense of ``*``, ``?`` and ``[]``."""

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self.patterns = tuple(patterns)
        # Not fnmatch: there "!" negates instead of "^", and a backslash is a character like any other.
        self._matchers = [compile_pattern(_GLOB_PART.sub(_expression, pattern), DOTALL) for pattern in self.patterns]

    def first_match(self, name: str) -> str | None:
        """The first pattern that matches a channel's name."""
        for pattern, matcher in zip(self.patterns, self._matchers, strict=True):
            if matcher.fullmatch(name):
                return pattern
        return None

    def __contains__(self, name: str) -> bool:
        return len(name) <= MAX_NAME_LENGTH and self.first_match(name) is not None


def _is_object(raw: bytes) -> bool:
    return raw.lstrip(b" \t\r\n")[:1] == b"{"


def read_published(redis_channel: str, message: bytes, heard: float) -> Update:
    """Read what a service published with a plain ``PUBLISH``.

    The message's own type decides where it goes; messages on operator-named channels go out as they came. Raises
    BadMessage, with a code for the metrics, when it is not a JSON object of a known form.
    """
    try:
        message.decode()  # a text frame must be UTF-8 throughout, also where no field is looked at
    except UnicodeDecodeError as error:
        raise BadMessage("invalid_utf8", f"not valid UTF-8 at byte {error.start}") from None
    try:
        if redis_channel not in (TASK_UPDATES, GENERAL_UPDATES):
            msgspec.json.decode(message, type=dict[str, msgspec.Raw])
            return Update(redis_channel, "message", message.strip(), heard)
        envelope = _decode_envelope(message)
    except msgspec.ValidationError as error:
        raise BadMessage("wrong_type", f"not of the expected form: {error}") from None
    except msgspec.DecodeError as error:
        raise BadMessage("not_json", f"not JSON: {error}") from None
    except RecursionError:
        raise BadMessage("too_deep", "nested too deeply") from None
    data = bytes(envelope.data)
    if not _is_object(data):
        raise BadMessage("wrong_type", "`data` must be a JSON object")
    if envelope.type == "task_update":
        if envelope.task_id is None:
            raise BadMessage("wrong_type", "a task_update needs a `task_id`")
        return Update(task_channel(envelope.task_id), "task_update", data, heard)
    if envelope.type == "general_update":
        return Update(GENERAL, "general_update", data, heard)
    raise BadMessage("unknown_type", f"unknown type {envelope.type[:64]!r}; expected task_update or general_update")
