"""A relay whose wall clock is fast: ``hypercorn -k trio fast_clock.py:app``. Grants are by that clock; nothing else is."""

import time

#: Seconds of the fast clock in one second.
SPEED = 360

#: When both clocks show the same.
_EPOCH = 1_780_000_000

_true_time = time.time


def fast_time() -> float:
    """The time by the fast clock."""
    return _EPOCH + (_true_time() - _EPOCH) * SPEED


if __name__ == "fast_clock":  # a server loads the app, and the relay takes `time.time` as it finds it
    time.time = fast_time
    from relay.asgi import app as app
