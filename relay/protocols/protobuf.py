"""The wire format of Protocol Buffers, as far as the Centrifuge protocol uses it: varints and length-delimited fields.

Messages are described by tables, and are dictionaries here. What a table does not have is skipped. Every length is checked
against the bytes that are there, so nothing is read or reserved beyond a message.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec

from relay.core.errors import BadMessage

#: Kinds of fields with a scalar.
UINT, INT, BOOL, TEXT, BYTES = "uint", "int", "bool", "text", "bytes"

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5

#: Longest varint, in bytes.
_MAX_VARINT = 10

#: Messages within messages at most.
_MAX_DEPTH = 16


class Field(NamedTuple):
    """One field of a message.

    Attributes:
        name: Its name.
        kind: The kind of a scalar, or the table of a message.
        form: "one", "list", or "map" from texts to messages.
    """

    name: str
    kind: "str | Table"
    form: str = "one"


class Table(dict[int, Field]):
    """The fields of a message by their numbers. It does not change once a message was read or written."""

    __slots__ = ("_by_key", "_writers")

    _by_key: "Mapping[int, Field]"
    _writers: "Mapping[str, _Writer]"

    @property
    def by_key(self) -> "Mapping[int, Field]":
        """The fields by the first byte of each, its number and its form; without those whose number takes more bytes."""
        try:
            return self._by_key
        except AttributeError:
            self._by_key = {number << 3 | _form_of(field): field for number, field in self.items() if number < 16}
            return self._by_key

    @property
    def writers(self) -> "Mapping[str, _Writer]":
        """What returns the bytes of each field, by its name."""
        try:
            return self._writers
        except AttributeError:
            self._writers = {field.name: _writer_of(number, field) for number, field in self.items()}
            return self._writers


#: Returns the bytes of a field that has this value.
_Writer = Callable[[Any], bytes]

#: The varints of one byte.
_SHORT = [bytes((number,)) for number in range(0x80)]


class EncodedList:
    """Messages of a field that is a list, encoded once for any number of messages that have them.

    Args:
        messages: The bytes of each.
    """

    __slots__ = ("_by_number", "_messages")

    def __init__(self, messages: Iterable[bytes]) -> None:
        self._messages = list(map(delimited, messages))
        self._by_number: dict[int, bytes] = {}

    def __bool__(self) -> bool:
        return bool(self._messages)

    def field(self, number: int) -> bytes:
        """Return the field of this number."""
        field = self._by_number.get(number)
        if field is None:
            key = varint(number << 3 | _DELIMITED)
            field = self._by_number[number] = b"".join([key + message for message in self._messages])
        return field


def varint(number: int) -> bytes:
    """Return a number as a varint; one below zero is that of 64 bits."""
    if 0 <= number <= 0x7F:
        return _SHORT[number]
    number &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def delimited(data: bytes) -> bytes:
    """Return bytes behind their length."""
    return varint(len(data)) + data


def _malformed(reason: str) -> BadMessage:
    return BadMessage("bad_protobuf", f"not a message of this protocol: {reason}")


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    if at < len(data) and data[at] < 0x80:
        return data[at], at + 1
    number = shift = 0
    for position in range(at, min(len(data), at + _MAX_VARINT)):
        byte = data[position]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & 0xFFFF_FFFF_FFFF_FFFF, position + 1
        shift += 7
    raise _malformed("a number has no end")


def read_delimited(data: bytes, at: int) -> tuple[bytes, int]:
    """Return the bytes whose length stands at a place, and where they end.

    Raises:
        BadMessage: There are fewer.
    """
    length, at = _read_varint(data, at)
    if length > len(data) - at:
        raise _malformed("it is cut off")
    return data[at : at + length], at + length


def decode(table: Table, data: bytes, depth: int = 0) -> dict[str, Any]:
    """Return a message. Bytes are `msgspec.Raw`, and fields that are not there are left out.

    Raises:
        BadMessage: It is malformed.
    """
    if depth > _MAX_DEPTH:
        raise _malformed("it is nested too deeply")
    message: dict[str, Any] = {}
    by_key, size, at = table.by_key, len(data), 0
    while at < size:
        field = by_key.get(data[at])
        if field is None or field.form == "map":
            at = _read_other(table, data, at, message, depth)
            continue
        kind = field.kind
        if kind is TEXT or not isinstance(kind, str) or kind is BYTES:
            payload, at = read_delimited(data, at + 1)
            message[field.name] = (
                decode(kind, payload, depth + 1) if isinstance(kind, Table) else _value(kind, payload, depth)
            )
        else:
            number, at = _read_varint(data, at + 1)
            message[field.name] = number if kind is UINT else _value(kind, number, depth)
    return message


def _read_other(table: Table, data: bytes, at: int, message: dict[str, Any], depth: int) -> int:
    """Read a field that is unknown, malformed or rare; returns where it ends. For the arguments see `decode`."""
    key, at = _read_varint(data, at)
    wire, field = key & 7, table.get(key >> 3)
    value: int | bytes
    if wire == _VARINT:
        value, at = _read_varint(data, at)
    elif wire == _DELIMITED:
        value, at = read_delimited(data, at)
    elif wire in (_FIXED64, _FIXED32) and len(data) - at >= (size := 8 if wire == _FIXED64 else 4):
        return at + size
    else:
        raise _malformed("a field has an unknown form")
    if field is not None:
        if wire != _form_of(field):
            raise _malformed(f"`{field.name}` has another type")
        _store(message, field, value, depth)
    return at


def _form_of(field: Field) -> int:
    return _VARINT if field.kind in (UINT, INT, BOOL) else _DELIMITED


def _store(message: dict[str, Any], field: Field, value: int | bytes, depth: int) -> None:
    if field.form == "map":
        assert not isinstance(field.kind, str)
        entry = decode(Table({1: Field("key", TEXT), 2: Field("value", field.kind)}), bytes(value), depth + 1)
        message.setdefault(field.name, {})[entry.get("key", "")] = entry.get("value", {})
    else:
        message[field.name] = _value(field.kind, value, depth)


def _value(kind: str | Table, value: int | bytes, depth: int) -> Any:
    if isinstance(value, int):
        if kind == BOOL:
            return value != 0
        return value - (1 << 64) if kind == INT and value >= 1 << 63 else value
    if not isinstance(kind, str):
        return decode(kind, value, depth + 1)
    if kind == BYTES:
        return msgspec.Raw(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise _malformed("a text is not UTF-8") from None


def encode(table: Table, message: Mapping[str, Any]) -> bytes:
    """Return the bytes of a message. Scalars that are zero or empty are left out, as the format has it."""
    writers, out = table.writers, []
    for name, value in message.items():
        writer = writers.get(name)
        if writer is not None and value is not None:
            out.append(writer(value))
    return b"".join(out)


def _writer_of(number: int, field: Field) -> _Writer:
    kind = field.kind
    key = varint(number << 3 | _form_of(field))
    if field.form == "map":
        return partial(_write_map, key, Table({1: Field("key", TEXT), 2: Field("value", kind)}))
    if not isinstance(kind, str):
        return partial(_write_list if field.form == "list" else _write_message, number, key, kind)
    if kind in (UINT, INT, BOOL):
        return partial(_write_number, key)
    return partial(_write_text if kind == TEXT else _write_bytes, key)


def _write_number(key: bytes, value: int) -> bytes:
    return key + varint(value) if value else b""


def _write_text(key: bytes, value: str) -> bytes:
    return key + delimited(value.encode()) if value else b""


def _write_bytes(key: bytes, value: bytes | msgspec.Raw) -> bytes:
    return key + delimited(bytes(value)) if value or isinstance(value, msgspec.Raw) else b""


def _write_message(_number: int, key: bytes, table: Table, value: Mapping[str, Any]) -> bytes:
    return key + delimited(encode(table, value))


def _write_list(number: int, key: bytes, table: Table, value: EncodedList | Iterable[Mapping[str, Any]]) -> bytes:
    if isinstance(value, EncodedList):
        return value.field(number)
    return b"".join([key + delimited(encode(table, item)) for item in value])


def _write_map(key: bytes, entry: Table, value: Mapping[str, Any]) -> bytes:
    return b"".join([key + delimited(encode(entry, {"key": name, "value": item})) for name, item in value.items()])
