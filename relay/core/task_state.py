"""The state of a task: its partial updates folded into one, later fields over earlier ones."""

from collections.abc import Iterable, Mapping

import msgspec
from relay_wire.channels import MAX_FIELDS
from relay_wire.statuses import TERMINAL

from relay.core.errors import BadMessage
from relay.core.field_operations import FoldedField, literal, may_have_operations, without_operations

#: The field that is set on a task in progress without a heartbeat.
STALLED = "stalled"

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
_decode_text = msgspec.json.Decoder(str).decode


def fields_of(data: bytes) -> dict[str, bytes]:
    """Return the fields of a task update, each as the JSON text that it came in.

    Raises:
        BadMessage: The data is no object, has more than MAX_FIELDS fields, or is nested too deeply.
    """
    return {name: bytes(value) for name, value in raw_fields_of(data).items()}


def raw_fields_of(data: bytes) -> dict[str, msgspec.Raw]:
    """Return the fields of a task update as parts of its data: of many of them `fields_of` would make too many copies.

    Raises:
        BadMessage: As for `fields_of`.
    """
    try:
        fields = _decode(data)
    except msgspec.DecodeError as error:
        raise BadMessage("wrong_type", f"`data` must be a JSON object: {error}") from None
    except RecursionError:
        raise BadMessage("too_deep", "`data` is nested too deeply") from None
    if len(fields) > MAX_FIELDS:
        raise BadMessage("too_many_fields", f"`data` has {len(fields)} fields; a task may have {MAX_FIELDS}")
    return fields


def join_fields(fields: Mapping[str, bytes]) -> bytes:
    """Return the JSON object of fields that are JSON texts."""
    return b"{%b}" % b",".join(_encode(name) + b":" + value for name, value in fields.items())


def fold(updates: Iterable[bytes]) -> bytes:
    """Merge several updates of one task into one: fields of later ones replace those of earlier ones."""
    fields: dict[str, bytes] = {}
    for data in updates:
        fields.update(fields_of(data))
    return join_fields(fields)


def fold_operations(updates: Iterable[bytes]) -> bytes:
    """Merge several updates of one task, with operations among their fields, into one with operations.

    Raises:
        BadMessage: An update is no object, has too many fields, or appends to a value of another type.
    """
    fields: dict[str, FoldedField] = {}
    for data in updates:
        for name, value in fields_of(data).items():
            fields.setdefault(name, FoldedField()).add(value)
    return join_fields({name: field.value() for name, field in fields.items()})


def unpersisted_data(data: bytes) -> bytes | None:
    """Return what is delivered of a task update that Redis has not stored, or None if that is nothing.

    What it appends is left out: it could not be known later whether it is part of a value.
    """
    if not may_have_operations(data):
        return data
    fields = fields_of(data)
    plain = without_operations(fields)
    if fields and not plain:
        return None
    return data if plain == fields else join_fields({name: literal(value) for name, value in plain.items()})


def status_of(fields: Mapping[str, bytes]) -> str | None:
    """Return the status in some fields, or None if there is none or it is no text."""
    value = fields.get("status")
    if value is None:
        return None
    try:
        return _decode_text(value)
    except msgspec.DecodeError:
        return None


def is_terminal(data: bytes) -> bool:
    """Whether an update ends its task, or may: with too many fields, or nested too deeply, this is unknown."""
    try:
        return b'"status"' in data and status_of(fields_of(data)) in TERMINAL
    except BadMessage:
        return True
