"""OpenTelemetry spans of publishes and of received updates, where the program itself traces; docs/traces.md has what they say.

Nothing is imported here. A program that makes spans has imported the SDK for them: where that has not happened, there is no
span that an update could be a part of, and this module costs a look into a dictionary.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import time_ns
from typing import Any

from relay_wire.channels import FAMILY_PREFIX, GENERAL, TASK_PREFIX
from relay_wire.trace_context import sampled

_NAME = "relay_client"

#: The module that makes spans. The API alone says little: redis-py, for one, imports it wherever it is installed.
_SDK = "opentelemetry.sdk.trace"


def _api() -> Any:
    """Return the module ``opentelemetry.trace``; None where nobody has imported it, or not yet to its end."""
    module = sys.modules.get("opentelemetry.trace")
    return module if module is not None and hasattr(module, "get_tracer") else None


def _traceparent(span: Any) -> str | None:
    """Return a span's context, if it is sampled."""
    context = span.get_span_context()
    if not context.is_valid or not context.trace_flags & 1:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 3:02x}"


def _attributes(channel: str) -> dict[str, str]:
    """Return what spans say of a channel. Its name may be private."""
    kind, _, _ = channel.partition(":")
    is_own = channel == GENERAL or channel.startswith((TASK_PREFIX, FAMILY_PREFIX))
    return {"messaging.system": "relay", "relay.channel.kind": kind if is_own else "extra"}


class UpdateSpan:
    """The span of one update: from its hand-over until it was published, or from its receipt until it was taken.

    Attributes:
        traceparent: Its context.
    """

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: Any, traceparent: str) -> None:
        self._span = span
        self.traceparent = traceparent

    def end(self, error: Exception | None = None) -> None:
        """End it now, with the error that kept it from being published. From any thread."""
        api = _api()
        if error is not None and api is not None:
            self._span.set_status(api.StatusCode.ERROR, type(error).__name__)
        self._span.end()


def begin_publish(channel: str) -> UpdateSpan | None:
    """Begin the span of an update that is published in a sampled span of the program; None outside of such a span."""
    if _SDK not in sys.modules:
        return None
    api = _api()
    if api is None or _traceparent(api.get_current_span()) is None:
        return None
    tracer = api.get_tracer(_NAME)
    span = tracer.start_span("relay publish", kind=api.SpanKind.PRODUCER, attributes=_attributes(channel))
    traceparent = _traceparent(span)
    return None if traceparent is None else UpdateSpan(span, traceparent)


def begin_receive(channel: str, traceparent: str) -> UpdateSpan | None:
    """Begin the span of an update that was received with a trace context; None if that is not sampled."""
    api, context = _api(), sampled(traceparent)
    if api is None or context is None:
        return None
    _, trace_id, span_id, flags = context.split("-")
    parent = api.SpanContext(int(trace_id, 16), int(span_id, 16), True, api.TraceFlags(int(flags, 16)))
    span = api.get_tracer(_NAME).start_span(
        "relay receive",
        api.set_span_in_context(api.NonRecordingSpan(parent)),
        api.SpanKind.CONSUMER,
        _attributes(channel),
        start_time=time_ns(),
    )
    return UpdateSpan(span, _traceparent(span) or context)


def is_configured() -> bool:
    """Whether the program exports spans of its own, so that trace contexts are of use to it."""
    api = _api()
    return api is not None and not isinstance(api.get_tracer_provider(), api.ProxyTracerProvider)


def current() -> Any:
    """Return the present context for `within`, if there is a sampled span in it; None otherwise."""
    if _SDK not in sys.modules:
        return None
    api = _api()
    if api is None or _traceparent(api.get_current_span()) is None:
        return None
    return sys.modules["opentelemetry.context"].get_current()


@contextmanager
def within(context: Any) -> Iterator[None]:
    """Publish in a context that `current` has returned earlier, perhaps in another thread; in none, for None."""
    if _SDK not in sys.modules:
        yield
        return
    contexts = sys.modules["opentelemetry.context"]
    token = contexts.attach(contexts.Context() if context is None else context)
    try:
        yield
    finally:
        contexts.detach(token)
