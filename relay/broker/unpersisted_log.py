"""Log lines about updates that cannot be persisted: not one for each."""

import math
from time import monotonic

import structlog

_log = structlog.get_logger("relay.publish_ingester")

#: Seconds between two lines about the same.
_INTERVAL = 60.0

#: Channels that are remembered.
_MAX_CHANNELS = 1000


class UnpersistedLog:
    """Logs why updates are delivered live only: once a minute for each channel, and for what concerns all."""

    def __init__(self) -> None:
        self._logged: dict[str | None, float] = {}

    def note(self, channel: str | None, error: str) -> None:
        """An update could not be persisted.

        Args:
            channel: Its channel; None where Redis takes none.
            error: Why.
        """
        now = monotonic()
        if now - self._logged.get(channel, -math.inf) < _INTERVAL:
            return
        if len(self._logged) >= _MAX_CHANNELS:
            self._logged.clear()
        self._logged[channel] = now
        if channel is None:
            _log.error("redis takes no writes; updates are delivered live only if that lasts", error=error)
        else:
            _log.warning("update not persisted; it is delivered live only", channel=channel, error=error)
