"""Traces of updates, as the broker and the server see them; `relay.otel` makes them with OpenTelemetry, where it is set up.

A trace context is the text of a ``traceparent``, see `relay_wire.trace_context`. Only sampled ones get here: of what is not
sampled there are no spans.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol


class SpanName(StrEnum):
    """The spans of a relay."""

    RECORD = "relay record"
    FAN_OUT = "relay fan out"


class Span(Protocol):
    """A span that has begun. One that is never ended is not exported.

    Attributes:
        traceparent: Its context, for what is done because of it.
    """

    traceparent: str

    def end(self, attributes: Mapping[str, int] | None = None, error: str | None = None) -> None:
        """End it now.

        Args:
            attributes: What is known of it only now.
            error: What went wrong, if anything did.
        """


class Traces(Protocol):
    """Makes spans. Nothing here waits.

    Attributes:
        may_begin: Whether updates that are part of no trace may begin one: `new_trace` is worth a call.
    """

    may_begin: bool

    def new_trace(self) -> str | None:
        """Return what `begin` takes for an update that begins a trace; None if it is not sampled."""

    def begin(self, name: SpanName, context: str, channel: str, started_at: float, way: str | None = None) -> Span:
        """Begin a span.

        Args:
            name: Its name.
            context: The trace context of its parent, or what `new_trace` has returned.
            channel: Relay's name of the channel that it is about.
            started_at: When it began, in seconds of the monotonic clock.
            way: How the update came in: ``publish`` or ``http``.
        """
