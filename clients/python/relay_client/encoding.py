"""Updates as JSON text, each field by itself, as the publish script takes them.

What JSON has no form for is repaired where its meaning is plain: dates, UUIDs, enums, sets, paths and the numbers of other
libraries have one (see `_default`), and a lone surrogate, by which Python stands for a byte of a file name that is no UTF-8,
becomes U+FFFD. Everything else is refused.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any
from uuid import UUID


def _default(value: Any) -> Any:
    """Return a JSON value for a common type that JSON has no form for."""
    match value:
        case datetime() | date() | time():
            return value.isoformat()
        case UUID() | Decimal() | PurePath():
            return str(value)
        case Enum():
            return value.value
        case set() | frozenset():
            return list(value)
        case Integral():
            return int(value)
        case Real():
            return float(value)
        case bytes():
            raise TypeError("bytes are not JSON; decode them first")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_default).encode
_encode_with_nan = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_default).encode


def is_well_formed(text: str) -> bool:
    """Return whether a text has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def well_formed(text: str) -> str:
    """Return a text with U+FFFD in place of each lone surrogate; two that form a pair become their character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def encode(value: Any) -> bytes:
    """Return JSON text, with U+FFFD for lone surrogates. Raises TypeError or ValueError for what has no JSON form.

    NaN and the infinities have none.
    """
    try:
        text = _encode(value)
    except RecursionError:
        raise ValueError("nested too deeply for JSON") from None
    try:
        return text.encode()
    except UnicodeEncodeError:
        return well_formed(text).encode()


def plain_copy(value: Any) -> Any:
    """Return a JSON value that does not change when the given one does: null for NaN and the infinities, as JavaScript has it.

    Raises TypeError or ValueError for what has no JSON form.
    """
    try:
        return json.loads(_encode_with_nan(value), parse_constant=lambda _name: None)
    except RecursionError:
        raise ValueError("nested too deeply for JSON") from None


def encode_fields(update: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the JSON text of each field. Raises TypeError or ValueError."""
    if not isinstance(update, Mapping):
        raise TypeError(f"an update is a mapping of fields, not {type(update).__name__}")
    fields = {}
    for name, value in update.items():
        if not isinstance(name, str):
            raise TypeError(f"the names of fields are str; {name!r} is {type(name).__name__}")
        fields[name if is_well_formed(name) else well_formed(name)] = encode(value)
    return fields


def join_fields(fields: Mapping[str, bytes]) -> bytes:
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
