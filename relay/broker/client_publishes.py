"""Publishes that clients ask for over HTTP: durable before they count, several in one round trip, and safe to repeat.

They go over connections of their own, so that however many are asked for, neither the live feed nor clients' reads wait.
"""

from collections.abc import Sequence
from time import monotonic
from typing import NamedTuple
from uuid import uuid4

from relay_wire.channels import GENERAL_UPDATE
from relay_wire.creation import NO_OPTIONS, CreationOptions
from relay_wire.publications import Retention, ScriptCall
from relay_wire.trace_context import sampled

from relay.broker import script_calls
from relay.broker.contract import RunCalls
from relay.core.errors import BadMessage, BrokerError, StateTooLarge
from relay.core.updates import Position
from relay.traces import Span, SpanName, Traces

#: Connections for clients' publishes; each serves one round trip at a time.
CONNECTIONS = 2


class Publication(NamedTuple):
    """One update that a client wants to be published.

    Attributes:
        channel: Relay's channel name.
        type: The update's type as clients see it.
        data: JSON text of an object, as clients are to get it.
        options: For a task: its owner and its parent.
        key: The update's name: published again under it within five minutes, it is the same update. None where the client gave
            none.
        fingerprint: Letters and digits that distinguish the update from others under the same key.
    """

    channel: str
    type: str
    data: bytes
    options: CreationOptions = NO_OPTIONS
    key: str | None = None
    fingerprint: str = ""


class Published(NamedTuple):
    """An update that Redis has.

    Attributes:
        position: Where it stands in its channel.
        is_repeated: It was published before, under the same key.
    """

    position: Position
    is_repeated: bool


class ClientPublishes:
    """Publishes for clients.

    Args:
        run_calls: Runs scripts, on connections for clients' publishes.
        retention: How much is kept, and for how long.
        sharded: Whether the server is a cluster.
        traces: Makes spans, if anything does.
    """

    def __init__(
        self, run_calls: RunCalls, retention: Retention, *, sharded: bool, traces: Traces | None = None
    ) -> None:
        self._run_calls = run_calls
        self._retention = retention
        self._sharded = sharded
        self._traces = traces

    async def publish(
        self, publications: Sequence[Publication], traceparent: str | None = None
    ) -> list[Published | BadMessage | BrokerError]:
        """Publish some updates, in one round trip; those of one channel in their order.

        Args:
            publications: The updates.
            traceparent: The trace context that the client has sent with them.

        Returns:
            What became of each. BadMessage and BrokerRefused: it was not published. BrokerUnavailable: that is unknown.

        Raises:
            BrokerBusy: Too many wait for Redis. Nothing was published.
            BrokerUnavailable: No answer within the deadline; any of them may have been published.
        """
        spans = self._begin(publications, traceparent)
        prepared = [self._calls(publication, span) for publication, span in zip(publications, spans, strict=True)]
        calls = [call for each in prepared if not isinstance(each, BadMessage) for call in each]
        try:
            answers = iter(await self._run_calls(calls) if calls else ())
        except BrokerError as error:
            _end(spans, [error] * len(spans))
            raise
        outcomes: list[Published | BadMessage | BrokerError] = []
        for each in prepared:
            if isinstance(each, BadMessage):
                outcomes.append(each)
            else:
                outcomes.append(_outcome([next(answers) for _ in each]))
        _end(spans, outcomes)
        return outcomes

    def _begin(self, publications: Sequence[Publication], traceparent: str | None) -> list[Span | None]:
        traces = self._traces
        if traces is None:
            return [None] * len(publications)
        given = None if traceparent is None else sampled(traceparent)
        spans: list[Span | None] = []
        for publication in publications:
            context = traces.new_trace() if traceparent is None else given
            span = None
            if context is not None:
                span = traces.begin(SpanName.RECORD, context, publication.channel, monotonic(), "http")
            spans.append(span)
        return spans

    def _calls(self, publication: Publication, span: Span | None) -> list[ScriptCall] | BadMessage:
        key = publication.key or uuid4().hex
        try:
            publish = script_calls.publish_call(
                publication.channel,
                publication.type,
                publication.data,
                self._retention,
                options=publication.options,
                idempotency_key=publication.key,
                fingerprint=publication.fingerprint,
                sharded=self._sharded,
                trace="" if span is None else span.traceparent,
            )
            create = None
            if publication.type == GENERAL_UPDATE:
                create = script_calls.create_call(
                    publication.data,
                    self._retention,
                    idempotency_key=key,
                    options=publication.options,
                    sharded=self._sharded,
                )
        except BadMessage as error:
            return error
        # The task first: a client that receives the announcement finds it.
        return [publish] if create is None else [create, publish]


def _end(spans: Sequence[Span | None], outcomes: Sequence[Published | Exception]) -> None:
    for span, outcome in zip(spans, outcomes, strict=True):
        if span is not None:
            span.end(error=type(outcome).__name__ if isinstance(outcome, Exception) else None)


def _outcome(answers: Sequence[object]) -> Published | BrokerError:
    """Return what became of an update, by the answers of its calls."""
    for answer in answers:
        if isinstance(answer, BrokerError):
            return answer
    result = script_calls.read_result(answers[-1])
    if isinstance(result, BrokerError):
        return result
    if result.is_truncated:
        return StateTooLarge(script_calls.TRUNCATED)
    return Published(result.position, result.is_duplicate)
