"""Updates as JSON text, each field by itself, as the publish script takes them."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID


def _default(value: Any) -> Any:
    """Return a JSON value for a common type that JSON has no form for."""
    match value:
        case datetime() | date() | time():
            return value.isoformat()
        case UUID() | Decimal():
            return str(value)
        case Enum():
            return value.value
        case set() | frozenset():
            return list(value)
        case bytes():
            raise TypeError("bytes are not JSON; decode them first")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_default).encode


def encode(value: Any) -> bytes:
    """Return JSON text. Raises TypeError or ValueError for what has no JSON form, NaN among it."""
    return _encode(value).encode()


def encode_fields(update: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the JSON text of each field. Raises TypeError or ValueError."""
    if not isinstance(update, Mapping):
        raise TypeError(f"an update is a mapping of fields, not {type(update).__name__}")
    fields = {}
    for name, value in update.items():
        if not isinstance(name, str):
            raise TypeError(f"the names of fields are str; {name!r} is {type(name).__name__}")
        fields[name] = encode(value)
    return fields


def object_of(fields: Mapping[str, bytes]) -> bytes:
    """Return the JSON object of encoded fields."""
    return b"{%b}" % b",".join(encode(name) + b":" + value for name, value in fields.items())


def decode_fields(flat: Mapping[bytes | str, bytes | str] | Iterable[bytes | str]) -> dict[str, Any]:
    """Return a task's fields from Redis' answer to ``HGETALL``, in RESP2's or RESP3's form. What is no JSON is left out."""
    items: Iterable[tuple[bytes | str, bytes | str]]
    items = flat.items() if isinstance(flat, Mapping) else zip(*[iter(flat)] * 2, strict=True)
    fields = {}
    for name, value in items:
        try:
            fields[name.decode(errors="replace") if isinstance(name, bytes) else name] = json.loads(value)
        except ValueError:
            continue
    return fields
