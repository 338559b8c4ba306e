"""Spans by OpenTelemetry's SDK, exported with OTLP over HTTP. Where to, and what is sampled, its own variables ``OTEL_*`` say.

The exporter works in a thread of the SDK's, behind a bounded queue: when it does not keep up, spans are left out, and nothing
waits for it. At the end it has a moment for what is queued.
"""

import os
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from time import monotonic, time_ns

import structlog
import trio
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Decision, Sampler, TraceIdRatioBased
from relay_wire.channels import FAMILY_PREFIX, GENERAL, TASK_PREFIX

from relay.core.errors import ConfigError
from relay.traces import Span, SpanName, Traces

_log = structlog.get_logger("relay.traces")

#: Where it is not set, only what others have sampled is traced: no relay should begin to export every update by itself.
_SAMPLER = "OTEL_TRACES_SAMPLER"

_KINDS = {SpanName.RECORD: trace.SpanKind.CONSUMER, SpanName.FAN_OUT: trace.SpanKind.PRODUCER}


class _Ids(RandomIdGenerator):
    """Random ids, but for a trace whose id was drawn before: what is sampled may depend on it."""

    drawn: int | None = None

    def generate_trace_id(self) -> int:
        drawn, self.drawn = self.drawn, None
        return super().generate_trace_id() if drawn is None else drawn


class _OtelSpan:
    """`relay.traces.Span`."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 3:02x}"

    def end(self, attributes: Mapping[str, int] | None = None, error: str | None = None) -> None:
        if attributes:
            self._span.set_attributes(attributes)
        if error is not None:
            self._span.set_status(trace.StatusCode.ERROR, error)
        self._span.end()


class _OtelTraces:
    """`relay.traces.Traces`.

    Args:
        provider: The SDK's provider, which takes all that it is asked for.
        ids: Its ids.
        sampler: Decides which updates begin a trace.
        with_names: Whether spans have the names of channels, and so the ids of tasks.
    """

    def __init__(self, provider: TracerProvider, ids: _Ids, sampler: Sampler, *, with_names: bool) -> None:
        self._tracer = provider.get_tracer("relay", version("trio-relay"))
        self._ids = ids
        self._sampler = sampler
        self.may_begin = sampler is not ALWAYS_OFF
        self._with_names = with_names

    def new_trace(self) -> str | None:
        if not self.may_begin:
            return None
        trace_id = random.getrandbits(128) or 1
        # An empty context: what happens to be the current span has nothing to do with it.
        decision = self._sampler.should_sample(Context(), trace_id, SpanName.RECORD).decision
        return f"{trace_id:032x}" if decision is Decision.RECORD_AND_SAMPLE else None

    def begin(self, name: SpanName, context: str, channel: str, started_at: float, way: str | None = None) -> Span:
        kind, _, _ = channel.partition(":")
        is_own = channel == GENERAL or channel.startswith((TASK_PREFIX, FAMILY_PREFIX))
        attributes = {"messaging.system": "relay", "relay.channel.kind": kind if is_own else "extra"}
        if self._with_names:
            attributes["messaging.destination.name"] = channel
        if way is not None:
            attributes["relay.publish.way"] = way
        span = self._tracer.start_span(
            name,
            self._parent(context),
            _KINDS[name],
            attributes,
            start_time=time_ns() - int(1e9 * max(0.0, monotonic() - started_at)),
        )
        return _OtelSpan(span)

    def _parent(self, context: str) -> Context:
        if len(context) == 32:  # of `new_trace`
            self._ids.drawn = int(context, 16)
            return Context()
        _, trace_id, span_id, flags = context.split("-")
        parent = trace.SpanContext(int(trace_id, 16), int(span_id, 16), True, trace.TraceFlags(int(flags, 16)))
        return trace.set_span_in_context(trace.NonRecordingSpan(parent), Context())


def _sampler() -> Sampler:
    """Return what decides which updates begin a trace: the sampler that is set, asked without a parent.

    Raises:
        ConfigError: There is no such sampler.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ALWAYS_OFF
    name = os.environ.get(_SAMPLER, "").strip().lower().removeprefix("parentbased_")
    if name in ("", "always_off"):
        return ALWAYS_OFF
    if name == "always_on":
        return ALWAYS_ON
    if name == "traceidratio":
        argument = os.environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or "1"
        try:
            return TraceIdRatioBased(float(argument))
        except ValueError:
            raise ConfigError(f"OTEL_TRACES_SAMPLER_ARG: must be a number from 0 to 1, not {argument!r}") from None
    raise ConfigError(
        f"{_SAMPLER}: a relay knows always_on, always_off and traceidratio, each also with parentbased_ before it, "
        f"not {os.environ[_SAMPLER]!r}"
    )


def _resource() -> Resource:
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return Resource.create({} if named else {"service.name": "relay"})


@asynccontextmanager
async def exporting(*, with_names: bool, shutdown_timeout: float) -> AsyncIterator[Traces]:
    """Make and export spans for the time of the block.

    Args:
        with_names: Whether spans have the names of channels, and so the ids of tasks.
        shutdown_timeout: Seconds that the exporter has at the end for what is queued.

    Raises:
        ConfigError: A setting of OpenTelemetry cannot be right.
    """
    sampler = _sampler()
    ids = _Ids()
    # What is begun was sampled before: by the publisher, or by our sampler.
    provider = TracerProvider(ALWAYS_ON, _resource(), shutdown_on_exit=False, id_generator=ids)
    try:
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except ValueError as error:
        raise ConfigError(f"OpenTelemetry's settings: {error}") from None
    try:
        yield _OtelTraces(provider, ids, sampler, with_names=with_names)
    finally:
        with trio.move_on_after(shutdown_timeout, shield=True) as scope:
            # A thread of its own, since an exporter that hangs cannot be interrupted; it ends with the process at the latest.
            await trio.to_thread.run_sync(provider.shutdown, abandon_on_cancel=True)
        if scope.cancelled_caught:
            _log.warning("spans left out: the receiver of traces did not take them in time", seconds=shutdown_timeout)
