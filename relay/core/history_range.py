"""A part of a channel's history, as clients ask for it: forward or backward, with a limit."""

from collections.abc import Sequence
from typing import NamedTuple

from relay.core.updates import Position, Update

#: Most updates that a client gets at once.
MAX_UPDATES = 300


class HistoryRange(NamedTuple):
    """What is asked for.

    Attributes:
        limit: Most updates; 0 for the position alone.
        since: The offset after which it begins, or before which when it goes backward; None for the end of the history.
        reverse: From the newest to the oldest.
    """

    limit: int
    since: int | None = None
    reverse: bool = False


class HistoryPart(NamedTuple):
    """What there is.

    Attributes:
        top: Where the channel stands; None for one that was never written to.
        updates: The updates in the order that was asked for, each with its position.
    """

    top: Position | None
    updates: Sequence[Update]
