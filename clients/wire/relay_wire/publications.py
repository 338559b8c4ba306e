"""Durable publications: the arguments of the publish script, and its results.

One script gives an update its offset, appends it to the channel's history, folds it into the task's state, and publishes
it to the subscribers. Server and clients run the same script, with ``EVALSHA``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from relay_wire import keys, scripts
from relay_wire.channels import TASK_PREFIX
from relay_wire.position import Position, new_epoch
from relay_wire.scripts import Script
from relay_wire.statuses import RUNNING, TERMINAL

#: How long Redis remembers an idempotency key, in milliseconds.
IDEMPOTENCY_TTL_MS = 300_000


@dataclass(frozen=True, slots=True)
class Retention:
    """How much Redis keeps of a channel, and for how long; times in seconds.

    Publishers of one channel should agree: each publish applies its own retention.
    """

    history_size: int = 1000
    history_ttl: int = 3600
    history_meta_ttl: int = 7 * 86400
    task_state_ttl: int = 86400
    terminal_state_ttl: int = 3600
    #: The same numbers in the form that the script takes, times in milliseconds.
    wire_args: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        seconds = (self.history_ttl, self.history_meta_ttl, self.task_state_ttl, self.terminal_state_ttl)
        object.__setattr__(self, "wire_args", (str(self.history_size), *(str(each * 1000) for each in seconds)))


class DedupKey(NamedTuple):
    """How Redis recognises an update that it has recorded before.

    Attributes:
        kind: ``id`` for a publisher's idempotency key, ``heard`` for the digest of a plain message and its occurrence.
        key: The idempotency key, or the digest.
        remember_ms: How long Redis remembers it, in milliseconds.
        occurrence: For a digest: the how-manieth time the caller received these bytes.
        since_ms: For a digest: when the caller began to count, on Redis' clock; 0 if it counts everything ever recorded.
    """

    kind: str
    key: str
    remember_ms: int
    occurrence: int = 0
    since_ms: int = 0


class PublishResult(NamedTuple):
    """The result of a durable publish.

    Attributes:
        position: Where the update stands in its channel.
        is_duplicate: Whether it had been recorded before.
        previous: How many equal messages had been recorded before the caller began to count.
    """

    position: Position
    is_duplicate: bool
    previous: int


_NO_KEY = DedupKey("", "", 0)


def publish_script() -> Script:
    """Return the publish script."""
    return scripts.load("publish")


def idempotency_key(key: str) -> DedupKey:
    """Return the key of an update that is published once, however often its publisher tries."""
    return DedupKey("id", key, IDEMPOTENCY_TTL_MS)


def publish_arguments(
    channel: str,
    kind: str,
    data: bytes,
    retention: Retention,
    *,
    fields: Mapping[str, bytes] | None = None,
    status: str | None = None,
    dedup: DedupKey | None = None,
    sharded: bool = False,
) -> tuple[list[str], list[Any]]:
    """Return KEYS and ARGV of the publish script.

    Args:
        channel: Relay's channel name.
        kind: The update's type as clients see it.
        data: JSON text, as clients are to get it.
        retention: How much is kept, and for how long.
        fields: For a task: the JSON text of each field.
        status: For a task: its status, if the update has one.
        dedup: How the update is recognised if it was recorded before.
        sharded: Whether the server is a cluster.
    """
    names = list(keys.of_channel(channel))
    values: list[Any] = [
        names[0].removesuffix(":meta"),  # the Redis channel
        "SPUBLISH" if sharded else "PUBLISH",
        kind,
        data,
        new_epoch(),
        *retention.wire_args,
        *(dedup or _NO_KEY),
        "" if status is None else "ended" if status in TERMINAL else "running" if status in RUNNING else "other",
        channel[len(TASK_PREFIX) :] if channel.startswith(TASK_PREFIX) else "",
    ]
    for name, value in (fields or {}).items():
        values += (name, value)
    if dedup is not None and dedup.kind in ("id", "heard"):
        names.append(f"{names[0]}:{dedup.kind}:{dedup.key}")
    return names, values


def publish_result(answer: Sequence[Any]) -> PublishResult:
    """Read the publish script's answer."""
    epoch, offset, duplicate, previous = answer
    return PublishResult(Position(to_text(epoch), int(offset)), bool(duplicate), int(previous))


def unpersisted_message(kind: str, data: bytes) -> bytes:
    """Return what to publish if Redis has no memory to record the update: subscribers get it live, without a position."""
    return b"- 0 %b\n%b" % (kind.encode(), data)


def to_text(answer: str | bytes) -> str:
    """Return a Redis string as text, whether or not the connection decodes answers."""
    return answer.decode() if isinstance(answer, bytes) else answer
