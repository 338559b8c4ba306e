"""Updates as the benchmarks publish them."""

import time

from benchmarks.wire import Template, make_update


def update(sequence: int, size: int = 128) -> bytes:
    return Template(make_update("t", size).payload).fill(sequence, time.monotonic_ns())
