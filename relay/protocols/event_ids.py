"""The ids of ``/events``: the positions of all that a client follows, in few bytes.

An id is opaque to clients, and is returned as ``Last-Event-ID``, through proxies that take header lines of 4 KB at most. So it
has no names: a channel is known by a short digest of its name. In binary, before base64:

    version   1 byte, `_VERSION`
    others    the number of channels whose epoch is not 12 hexadecimal digits (1 byte), and each of these:
              digest (3 bytes), length of the epoch (1 byte), epoch, offset
    channels  digest (3 bytes), epoch (6 bytes), offset (1 to 8 bytes, 7 bits each, the lowest first)

That is room for some 270 tasks. What does not fit is left out, of the channels whose last update is the oldest: they cannot be
resumed, and their clients are sent a `reset` and the state.
"""

from base64 import urlsafe_b64encode
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b

from relay.core import base64url
from relay.core.updates import Position
from relay.protocols.protobuf import varint

#: Longest id, in characters.
MAX_LENGTH = 3900

_VERSION = 1
_DIGEST = 3
_EPOCH = 6
_MAX_OTHERS = 255
_MAX_EPOCH = 64
_MAX_OFFSET = 2**53

#: Bytes of an id before base64, which makes four characters of three.
_MAX_BYTES = MAX_LENGTH // 4 * 3


@lru_cache(maxsize=65_536)
def _digest(channel: str) -> bytes:
    return blake2b(channel.encode(), digest_size=_DIGEST).digest()


def _hexadecimal(epoch: str) -> bytes | None:
    """Return the bytes of an epoch of 12 hexadecimal digits, as Relay makes them; None for another one."""
    try:
        raw = bytes.fromhex(epoch)
    except ValueError:
        return None
    return raw if len(raw) == _EPOCH and raw.hex() == epoch else None


@lru_cache(maxsize=65_536)
def _before_offset(channel: str, epoch: str) -> bytes:
    """Return what stands before the offset in the id of a stream of one channel."""
    known = _hexadecimal(epoch)
    if known is not None:
        return bytes((_VERSION, 0)) + _digest(channel) + known
    other = epoch.encode()[:_MAX_EPOCH]
    return bytes((_VERSION, 1)) + _digest(channel) + bytes((len(other),)) + other


def id_of_one(channel: str, position: Position) -> bytes:
    """Return the id of a stream of one channel, as `EventId` does."""
    return urlsafe_b64encode(_before_offset(channel, position.epoch) + varint(position.offset))


class EventId:
    """The id of one event stream, as its positions advance."""

    __slots__ = ("_entries", "_others", "_size")

    def __init__(self) -> None:
        #: By channel, in the order of the last update.
        self._entries: dict[str, bytes] = {}
        self._others: dict[str, bytes] = {}
        self._size = 2

    def __bool__(self) -> bool:
        return bool(self._entries or self._others)

    def set(self, channel: str, position: Position) -> None:
        """Note where the client stands in a channel."""
        self._size -= len(self._entries.pop(channel, b"")) + len(self._others.pop(channel, b""))
        epoch = _hexadecimal(position.epoch)
        if epoch is not None:
            entry = self._entries[channel] = _digest(channel) + epoch + varint(position.offset)
        else:
            other = position.epoch.encode()[:_MAX_EPOCH]
            entry = _digest(channel) + bytes((len(other),)) + other + varint(position.offset)
            self._others[channel] = entry
        self._size += len(entry)

    def encode(self) -> bytes:
        """Return the id of an event that is sent now."""
        others, entries = list(self._others.values()), list(self._entries.values())
        if self._size > _MAX_BYTES or len(others) > _MAX_OTHERS:
            others = _latest(others, _MAX_BYTES // 2)[:_MAX_OTHERS]
            entries = _latest(entries, _MAX_BYTES - 2 - sum(map(len, others)))
        return urlsafe_b64encode(b"".join([bytes((_VERSION, len(others))), *others, *entries]))


def _latest(entries: list[bytes], room: int) -> list[bytes]:
    kept: list[bytes] = []
    for entry in reversed(entries):
        room -= len(entry)
        if room < 0:
            break
        kept.append(entry)
    return kept


def positions_of(last_event_id: str, channels: Iterable[str]) -> dict[str, Position] | None:
    """Return the positions that an id has of these channels; None when it is none of Relay's."""
    if len(last_event_id) > MAX_LENGTH:
        return None
    try:
        by_digest = _read(base64url.decode(last_event_id.encode("ascii").rstrip(b"=")))
    except (ValueError, IndexError):
        return None
    found: dict[str, Position] = {}
    for channel in channels:
        position = by_digest.get(_digest(channel))
        if position is not None:
            found[channel] = position
    return found


def _read(data: bytes) -> dict[bytes, Position | None]:
    """Read an id; a digest that is there twice, by chance, is ignored. Raises ValueError or IndexError."""
    if data[0] != _VERSION:
        raise ValueError("another version")
    positions: dict[bytes, Position | None] = {}
    others, at = data[1], 2
    while at < len(data):
        digest, at = data[at : at + _DIGEST], at + _DIGEST
        if others:
            others -= 1
            length, at = data[at], at + 1
            epoch = data[at : at + length].decode()
        else:
            length = _EPOCH
            epoch = data[at : at + length].hex()
        if length > _MAX_EPOCH:
            raise ValueError("no epoch is as long")
        offset, at = _read_number(data, at + length)
        positions[digest] = None if digest in positions else Position(epoch, offset)
    return positions


def _read_number(data: bytes, at: int) -> tuple[int, int]:
    """Read an offset; returns it, and where it ends. Raises ValueError or IndexError."""
    value = shift = 0
    while shift < 56:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte <= 0x7F and value <= _MAX_OFFSET:
            return value, at
    raise ValueError("no offset is as large")
