"""Spans of the way from Redis to the clients' sockets, for updates that are parts of a trace."""

from time import monotonic
from typing import NamedTuple

from relay.core.hub import Hub
from relay.core.updates import Position
from relay.traces import Span, SpanName, Traces

#: Updates at most that are on their way at a time, and the seconds after which one is given up: it was held up for long, or
#: never came. Neither has a span.
_MAX_OPEN = 256
_MAX_AGE = 10.0


class _Open(NamedTuple):
    channel: str
    position: Position
    span: Span
    began_at: float


class FanOutTraces:
    """Makes a span of each sampled update, from Redis to the sockets. The others cost a comparison for each batch.

    Args:
        traces: Makes spans.
        hub: Hands out the updates.
    """

    def __init__(self, traces: Traces, hub: Hub) -> None:
        self._traces = traces
        self._hub = hub
        self._open: list[_Open] = []

    def on_trace(self, channel: str, position: Position, context: str) -> None:
        """Take the trace context of the update that comes next on a channel."""
        now = monotonic()
        if not self._hub.subscriber_count(channel):
            return
        if len(self._open) >= _MAX_OPEN:
            self._open = [each for each in self._open if now - each.began_at < _MAX_AGE]
            if len(self._open) >= _MAX_OPEN:
                return
        span = self._traces.begin(SpanName.FAN_OUT, context, channel, now)
        self._open.append(_Open(channel, position, span, now))
        self._hub.on_trace(channel, position, span.traceparent)

    def on_flushed(self) -> None:
        """Note that what the hub had was handed out: end the spans of the updates that were among it."""
        if self._open:
            self._end()

    def _end(self) -> None:
        now, still_open = monotonic(), []
        for each in self._open:
            reached = self._hub.position(each.channel)
            if reached is None or reached.epoch != each.position.epoch or reached.offset < each.position.offset:
                if reached is not None and now - each.began_at < _MAX_AGE:
                    still_open.append(each)  # held back until a gap before it is closed
                continue
            each.span.end({"relay.subscribers": self._hub.subscriber_count(each.channel)})
        self._open = still_open
