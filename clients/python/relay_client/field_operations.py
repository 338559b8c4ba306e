"""Operations on fields: values of an update that append to a field instead of replacing it, see docs/protocol.md."""

from collections.abc import Mapping
from typing import Any

from relay_wire.channels import APPEND, SET


def operation_of(value: Any) -> tuple[str, Any] | None:
    """Return the name and the operand of the operation that a value is, or None for a plain value."""
    if isinstance(value, Mapping) and len(value) == 1:
        ((name, operand),) = value.items()
        if name in (APPEND, SET):
            return name, operand
    return None


def literal(value: Any) -> Any:
    """Return what publishes a value as it is, also where it looks like an operation."""
    return value if operation_of(value) is None else {SET: value}


def check_append(name: str, operand: Any) -> None:
    """Raise TypeError or ValueError for what cannot be appended to a field."""
    if name == "status":
        raise ValueError("the field 'status' cannot be appended to")
    if isinstance(operand, bool) or not isinstance(operand, str | list | tuple | int | float):
        raise TypeError(f"text, a list or a number can be appended to a field, not {type(operand).__name__}")


def apply_update(fields: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task's fields after an update.

    Raises:
        TypeError: The update appends to a value of another type, so it does not belong to these fields.
    """
    new = {**fields}
    for name, value in data.items():
        operation = operation_of(value) if type(value) is dict else None
        if operation is None:
            new[name] = value
        elif operation[0] == SET or new.get(name) is None:
            new[name] = operation[1]
        else:
            new[name] = new[name] + operation[1]
    return new
