"""The trace contexts of plain publishes: a member ``traceparent`` beside ``data``."""

from collections.abc import Callable

import msgspec
from relay_wire.trace_context import TRACEPARENT, sampled

from relay.core.json_errors import NOT_JSON
from relay.core.updates import Update
from relay.traces import Traces

_MARK = b'"%b"' % TRACEPARENT.encode()


class _Traced(msgspec.Struct, gc=False):
    traceparent: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Traced).decode
_decode_text = msgspec.json.Decoder(str).decode


def context_in(message: bytes) -> str | None:
    """Return the text that a message has as its trace context; None if it has none."""
    if _MARK not in message:
        return None
    try:
        return _decode_text(_decode(message).traceparent)
    except NOT_JSON:
        return None  # the message itself may still be one


class TracedIngest:
    """Gives updates of plain publishes their trace contexts, on their way to the ingester.

    Args:
        traces: Decides which updates begin a trace, of those without a context.
        ingest: Takes an update and its message.
    """

    def __init__(self, traces: Traces, ingest: Callable[[Update, bytes], None]) -> None:
        self._traces = traces
        self._may_begin = traces.may_begin
        self._ingest = ingest

    def __call__(self, update: Update, message: bytes) -> None:
        if not self._may_begin and _MARK not in message:
            self._ingest(update, message)
            return
        given = context_in(message)
        context = self._traces.new_trace() if given is None else sampled(given)
        if context is not None:
            update = msgspec.structs.replace(update, trace=context)
        self._ingest(update, message)
