"""Plain publishes of services, from their bytes in Redis to an update for the ingester."""

from collections.abc import Callable
from time import monotonic

import msgspec
import structlog
from relay_wire.channels import GENERAL_UPDATES, TASK_UPDATES

from relay.core.channels import ChannelPatterns, read_published
from relay.core.errors import BadMessage
from relay.core.extra_channels import channel_of
from relay.core.malformed_publishes import MalformedPublishes
from relay.core.updates import Update
from relay.metrics import Metrics

_log = structlog.get_logger("relay.plain_publishes")

#: Characters of a channel's name that are kept of a message that cannot be read.
_MAX_CHANNEL = 128


class PlainPublishReceiver:
    """Reads plain publishes. A message that cannot be read is counted, logged with its channel, and skipped.

    Args:
        named: The operator's channels.
        max_bytes: Longest message.
        strict: Whether to skip what is not of the documented form, see `relay.core.channels.read_published`.
        metrics: Where messages are counted.
        malformed: Keeps who publishes what cannot be read.
        ingest: Takes an update and the message that it was read from; it must neither block nor raise.
    """

    def __init__(
        self,
        named: ChannelPatterns,
        max_bytes: int,
        strict: bool,
        metrics: Metrics,
        malformed: MalformedPublishes,
        ingest: Callable[[Update, bytes], None],
    ) -> None:
        self._named = named
        self._max_bytes = max_bytes
        self._strict = strict
        self._metrics = metrics
        self._malformed = malformed
        #: Messages received so far. `relay.server.redis_reports` brings the metric up to date: that costs as much as a message.
        self.received = 0
        self._ingest = ingest

    def on_publish(self, channel: str, message: bytes) -> None:
        """Take a message of one of the two channels that every relay serves."""
        self._take(channel, message)

    def _take(self, channel: str, message: bytes, as_channel: str | None = None) -> None:
        """Take a message; the update is of another channel within Relay where one is given."""
        self.received += 1
        try:
            if len(message) > self._max_bytes:
                raise BadMessage("too_big", f"longer than RELAY_MAX_UPDATE_BYTES, {self._max_bytes}")
            update = read_published(channel, message, monotonic(), strict=self._strict)
        except BadMessage as error:
            self._metrics.updates_invalid.labels(error.code).inc()
            self._malformed.record(monotonic(), f"PUBLISH {channel[:_MAX_CHANNEL]}", error.code, error.message, message)
            _log.warning(
                "published message skipped", channel=channel, code=error.code, error=error.message, size=len(message)
            )
            return
        if as_channel is not None:
            update = msgspec.structs.replace(update, channel=as_channel)
        self._ingest(update, message)

    def on_pattern(self, pattern: str, channel: str, message: bytes) -> None:
        """Take a message of an operator's pattern. Redis sends it once for each pattern that it matches; one counts."""
        if channel not in (TASK_UPDATES, GENERAL_UPDATES) and self._named.first_match(channel) == pattern:
            self._take(channel, message, channel_of(channel))
