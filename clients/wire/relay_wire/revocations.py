"""Revocations of grants: a set in Redis that lasts as long as the grants could, and a message to the relays."""

from typing import Any

from relay_wire import keys
from relay_wire.publications import ScriptCall
from relay_wire.scripts import Script

#: What can be revoked: one grant by its id, or those of a subject that were issued until now.
KINDS = ("jti", "sub")

#: Revocations that are remembered at a time. The next one is refused rather than forgotten.
MAX_REVOCATIONS = 100_000

#: Longest id or subject, in characters.
MAX_LENGTH = 255

# A member is "<kind> <when, in seconds> <name>", its score until when it is remembered.
_REVOKE = Script.of(
    "local clock = redis.call('TIME') local now = clock[1] + clock[2] / 1000000 "
    "redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now) "
    f"if redis.call('ZCARD', KEYS[1]) >= {MAX_REVOCATIONS} then "
    "return redis.error_reply('TOOMANY revocations are remembered already; give them a shorter time') end "
    "local member = ARGV[1] .. ' ' .. string.format('%.3f', now) .. ' ' .. ARGV[2] "
    "local until_time = string.format('%.3f', now + ARGV[3]) "
    "redis.call('ZADD', KEYS[1], until_time, member) "
    "if redis.call('TTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('EXPIRE', KEYS[1], math.ceil(ARGV[3])) end "
    "redis.call('PUBLISH', ARGV[4], until_time .. ' ' .. member) return 1"
)
_READ = Script.of(
    "local now = redis.call('TIME')[1] return redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf', 'WITHSCORES')"
)


def revoke_call(kind: str, name: str, seconds: float) -> ScriptCall:
    """Return a call that revokes grants; it may be repeated.

    Args:
        kind: "jti" or "sub".
        name: The id of the grant, or the subject.
        seconds: How long it is remembered: as long as a grant may still be valid.

    Raises:
        ValueError: An argument is out of range.
    """
    if kind not in KINDS:
        raise ValueError(f"a revocation is by {' or '.join(KINDS)}, not by {kind!r:.32}")
    if not 0 < len(name) <= MAX_LENGTH:
        raise ValueError(f"the {kind} must have 1 to {MAX_LENGTH} characters")
    if not 0 < seconds <= 1e10:
        raise ValueError("the seconds must be more than 0")
    return ScriptCall(_REVOKE, [keys.REVOCATIONS], [kind, name, f"{seconds:.3f}", keys.REVOKED])


def read_call() -> ScriptCall:
    """Return a call that reads all revocations; `read_answer` reads its answer."""
    return ScriptCall(_READ, [keys.REVOCATIONS], [])


def read_answer(answer: Any) -> list[tuple[str, str, float, float]]:
    """Return the kind, the name, the time, and the end of each revocation. What cannot be read is left out."""
    if not isinstance(answer, list):
        return []
    found = []
    for member, score in zip(answer[::2], answer[1::2], strict=False):
        revocation = _read(member, score)
        if revocation is not None:
            found.append(revocation)
    return found


def read_message(message: bytes) -> tuple[str, str, float, float] | None:
    """Return the revocation that a message on the channel `keys.REVOKED` is about; None if it is none."""
    until, _, member = message.partition(b" ")
    return _read(member, until)


def _read(member: Any, until: Any) -> tuple[str, str, float, float] | None:
    try:
        kind, at, name = member.decode().split(" ", 2)
        revocation = kind, name, float(at), float(until)
    except (AttributeError, ValueError, TypeError):
        return None
    return revocation if kind in KINDS and revocation[3] == revocation[3] else None
