"""Positions as clients see them."""

from relay.core.updates import Position


def position_json(position: Position) -> dict[str, str | int]:
    """Return a position as clients see it."""
    return {"epoch": position.epoch, "offset": position.offset}
