"""Positions: where an update stands in its channel."""

import os
from functools import cache
from random import Random
from typing import NamedTuple


class Position(NamedTuple):
    """Where an update stands in its channel.

    Attributes:
        epoch: One life of the channel's numbers. Another epoch means that the history was lost, or that the task began again.
        offset: Counts updates from 1 without gaps within one epoch. 0 is before the first.
    """

    epoch: str
    offset: int


@cache
def _random() -> Random:
    # Epochs are no secrets, so they need not come from the operating system. Nobody else seeds this generator, and a
    # forked child must not repeat its parent's numbers.
    generator = Random()
    os.register_at_fork(after_in_child=generator.seed)
    return generator


def new_epoch() -> str:
    """Return a random epoch, 12 hexadecimal digits."""
    return f"{_random().getrandbits(48):012x}"
