"""What queues and bars call progress, in Relay's terms."""

from collections.abc import Mapping
from typing import Any

from relay_client.progress.values import percentage

#: Names under which applications give these, in order of preference.
_PROGRESS = ("percent", "progress", "percentage")
_DONE = ("current", "done", "completed")
_MESSAGE = ("description", "message", "status", "desc")


def fraction(done: float | None, total: float | None) -> float | None:
    """Return the percentage of what is done, from 0 to 100; None where there is no total."""
    if done is None or not total or total < 0:
        return None
    return min(100.0, max(0.0, round(100 * done / total, 2)))


def progress_fields(meta: object) -> dict[str, Any]:
    """Return the arguments of `Task.progress` for a mapping in which an application keeps its progress.

    The names are those of celery-progress and of Celery's documentation: ``current`` and ``total``, or ``percent``; and
    ``description``, ``message`` or ``status``, and ``stage``. Others are left out: not everybody who watches may see them.
    """
    if not isinstance(meta, Mapping):
        return {}
    fields: dict[str, Any] = {}
    done, total = _first(meta, _DONE, (int, float)), _first(meta, ("total",), (int, float))
    progress = _first(meta, _PROGRESS, (int, float))
    if done is not None:
        fields["done"] = done
        if total:
            fields["total"] = total
    try:
        fields["progress"] = fraction(done, total) if progress is None else percentage(progress)
    except (TypeError, ValueError):
        fields["progress"] = fraction(done, total)
    fields["message"] = _first(meta, _MESSAGE, (str,)) or None
    fields["stage"] = _first(meta, ("stage",), (str,)) or None
    return {name: value for name, value in fields.items() if value is not None}


def _first(meta: Mapping[Any, Any], names: tuple[str, ...], types: tuple[type, ...]) -> Any:
    for name in names:
        value = meta.get(name)
        if isinstance(value, types) and not isinstance(value, bool):
            return value
    return None
