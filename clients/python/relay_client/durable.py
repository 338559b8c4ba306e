"""Durable publishing: the script that numbers, keeps, folds and publishes an update, its arguments, and its answer.

The server and the clients publish with this one script; it is run by ``EVALSHA`` through redis-py.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from importlib.resources import files
from random import Random
from typing import Any, NamedTuple

from relay_client import keys
from relay_client.statuses import RUNNING, TERMINAL

SCRIPT = files("relay_client").joinpath("publish.lua").read_text()
SHA = sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()

GENERAL = "general"
TASK_UPDATE = "task_update"
GENERAL_UPDATE = "general_update"

#: Most fields of one update of a task: a publisher that makes up names must not fill Redis.
MAX_FIELDS = 256

#: How long an idempotency key is remembered, in milliseconds.
IDEMPOTENCY_MS = 300_000


class Position(NamedTuple):
    """Where an update stands in its channel.

    ``offset`` counts from 1 without holes within one ``epoch``; a new epoch means that the channel's history was lost.
    """

    epoch: str
    offset: int


@dataclass(frozen=True, slots=True)
class Retention:
    """The bounds of what is kept; times in seconds. Publishers of one channel should agree: each publish applies its own."""

    log_updates: int = 1000
    log_seconds: int = 3600
    meta_seconds: int = 7 * 86400
    state_seconds: int = 86400
    ended_seconds: int = 3600
    #: The same as the script takes them.
    words: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        seconds = (self.log_seconds, self.meta_seconds, self.state_seconds, self.ended_seconds)
        object.__setattr__(self, "words", (str(self.log_updates), *(str(each * 1000) for each in seconds)))


class Known(NamedTuple):
    """How an update is recognised that was recorded before: an idempotency key (kind ``id``), or a digest and its ordinal
    (kind ``heard``).

    since_ms: since when the caller counts its ordinals, on Redis' clock; 0 where they count all that was ever recorded
    """

    kind: str
    key: str
    remember_ms: int
    ordinal: int = 0
    since_ms: int = 0


class Recorded(NamedTuple):
    """The answer of a durable publish: ``position``; whether it had been recorded before; and how many times the same
    message had been, before the caller began to count."""

    position: Position
    is_duplicate: bool
    before: int


_UNKNOWN = Known("", "", 0)


#: Epochs are no secrets, so that they need not come from the system each time. Nobody else seeds it, and a child that was
#: forked goes on with numbers of its own.
_random = Random()
os.register_at_fork(after_in_child=_random.seed)


def new_epoch() -> str:
    """A name for a channel's line that no other has."""
    return f"{_random.getrandbits(48):012x}"


def idempotency(key: str) -> Known:
    """An update that is published once, however often its publisher tries."""
    return Known("id", key, IDEMPOTENCY_MS)


def arguments(
    channel: str,
    kind: str,
    data: bytes,
    retention: Retention,
    *,
    fields: Mapping[str, bytes] | None = None,
    status: str | None = None,
    known: Known | None = None,
    sharded: bool = False,
) -> tuple[list[str], list[Any]]:
    """KEYS and ARGV of the script.

    data:    JSON text, as clients are to get it
    fields:  of a task: each field's JSON text
    status:  of a task: its status, where the update has one
    sharded: the server is a cluster
    """
    names = list(keys.of_channel(channel))
    values: list[Any] = [
        names[0].removesuffix(":meta"),  # the feed
        "SPUBLISH" if sharded else "PUBLISH",
        kind,
        data,
        new_epoch(),
        *retention.words,
        *(known or _UNKNOWN),
        "" if status is None else "ended" if status in TERMINAL else "running" if status in RUNNING else "other",
        channel[len(keys.TASK_PREFIX) :] if channel.startswith(keys.TASK_PREFIX) else "",
    ]
    for name, value in (fields or {}).items():
        values += (name, value)
    if known is not None and known.kind in ("id", "heard"):
        names.append(f"{names[0]}:{known.kind}:{known.key}")
    return names, values


def recorded(answer: Sequence[Any]) -> Recorded:
    """What the script answered."""
    epoch, offset, duplicate, before = answer
    return Recorded(Position(text(epoch), int(offset)), bool(duplicate), int(before))


def unrecorded_message(kind: str, data: bytes) -> bytes:
    """What to publish on a feed when Redis has no memory to record the update: it is delivered live, without a position."""
    return b"- 0 %b\n%b" % (kind.encode(), data)


def text(answer: str | bytes) -> str:
    """A Redis string, whether or not the connection decodes them."""
    return answer.decode() if isinstance(answer, bytes) else answer
