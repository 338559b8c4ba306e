"""Spans of plain publishes, from their receipt to Redis having them, for those that are parts of a trace."""

from collections.abc import Mapping, Sequence

from relay.core.errors import BadMessage, BrokerError, BrokerUnavailable
from relay.core.plain_queue import Pending
from relay.traces import Span, SpanName, Traces

#: A batch's spans, by the places of the updates in it.
Spans = Mapping[int, Span]


def begin_spans(traces: Traces, batch: Sequence[Pending]) -> Spans:
    """Begin the spans of a batch that is about to be recorded; several relays may begin one of the same update."""
    traced = [place for place, pending in enumerate(batch) if pending.update.trace]
    spans: dict[int, Span] = {}
    for place in traced:
        update = batch[place].update
        spans[place] = traces.begin(SpanName.RECORD, update.trace, update.channel, update.received_at, "publish")
    return spans


def end_spans(spans: Spans, results: Sequence[int | BrokerError | BadMessage]) -> None:
    """End the spans of a batch. Another relay's update has that relay's span, and one that is tried again has one later.

    Args:
        spans: The spans.
        results: What became of each update, as `IngestCalls.results` says it.
    """
    for place, span in spans.items():
        result = results[place]
        if isinstance(result, int):
            if result >= 0:
                span.end()
        elif not isinstance(result, BrokerUnavailable):
            span.end(error=type(result).__name__)
