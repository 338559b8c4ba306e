"""A limit on equal log lines: what a stranger can cause a thousand times a second must not be logged as often."""

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Any

import structlog

#: Lines of one kind that are logged at once, and in a second after that.
BURST = 20.0
RATE = 1.0

#: Kinds of lines that are known at a time.
_MAX_KINDS = 512


class _Kind:
    __slots__ = ("suppressed", "tokens", "updated_at")

    def __init__(self, now: float) -> None:
        self.tokens = BURST
        self.updated_at = now
        self.suppressed = 0


class LineLimit:
    """A structlog processor that drops lines of an event that come too often.

    The next line of the event that is logged has the number of those that were dropped, as `suppressed`. Errors are logged with
    their first lines like all others; the metrics count what the lines are about.

    Args:
        clock: Returns seconds of a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._kinds: OrderedDict[str, _Kind] = OrderedDict()

    def __call__(self, _logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        now = self._clock()
        name = str(event.get("event"))
        kind = self._kinds.get(name)
        if kind is None:
            kind = self._kinds[name] = _Kind(now)
            if len(self._kinds) > _MAX_KINDS:
                self._kinds.popitem(last=False)
        else:
            self._kinds.move_to_end(name)
        kind.tokens = min(BURST, kind.tokens + (now - kind.updated_at) * RATE)
        kind.updated_at = now
        if kind.tokens < 1:
            kind.suppressed += 1
            raise structlog.DropEvent
        kind.tokens -= 1
        if kind.suppressed:
            event["suppressed"], kind.suppressed = kind.suppressed, 0
        return event
