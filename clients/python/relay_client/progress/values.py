"""The values that a task can report: numbers from 0 to 100 for its progress, and copies with a JSON form for its fields."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from math import isfinite
from time import time
from typing import Any

from relay_client.encoding import plain_copy

#: By so much progress may be out of its range: sums of floats miss 100 by less.
_TOLERANCE = 1e-3

_PLAIN = frozenset({str, int, bool, type(None)})


def utc_iso(seconds: float) -> str:
    """Return a time as tasks have it: ISO 8601, in UTC; of seconds since 1970."""
    second, milliseconds = divmod(int(seconds * 1000), 1000)
    return f"{_whole_second(second)}.{milliseconds:03d}+00:00"


@lru_cache(maxsize=16)
def _whole_second(second: int) -> str:
    """Jobs begin and end many times in a second."""
    return datetime.fromtimestamp(second, UTC).isoformat()[:-6]


def utc_now_iso() -> str:
    """Return the time as tasks have it."""
    return utc_iso(time())


def is_plain(fields: Mapping[str, Any]) -> bool:
    """Return whether fields can be published just as they are."""
    # A loop, which takes half of the time of a generator: a job waits for it when it begins.
    for name, value in fields.items():  # noqa: SIM110
        if type(value) not in _PLAIN or type(name) is not str:
            return False
    return True


def plain_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields that do not change when their values do. Raises TypeError or ValueError for what has no JSON form."""
    return {name: value if type(value) in _PLAIN else _plain(value) for name, value in fields.items()}


def _plain(value: Any) -> Any:
    if type(value) is float:
        return value if isfinite(value) else None
    return plain_copy(value)


def percentage(progress: Any) -> float:
    """Return progress as a number from 0 to 100. Raises TypeError or ValueError."""
    if isinstance(progress, str | bytes):
        raise TypeError(f"progress is a number from 0 to 100, not {progress!r:.80}")
    number = progress if type(progress) is int or type(progress) is float else float(progress)
    if 0 <= number <= 100:
        return number
    if -_TOLERANCE <= number <= 100 + _TOLERANCE:
        return 0.0 if number < 0 else 100.0
    raise ValueError(f"progress is from 0 to 100, not {progress!r}")


def is_same(value: object, other: object) -> bool:
    """Return whether two values are equal and of one type: 1, 1.0 and True differ."""
    return value is other or (type(value) is type(other) and value == other)
