"""The spans of the fan-out: what of it ends when, and how much may be open."""

from collections.abc import Mapping

import pytest

from relay.core.batches import Batch, Framing, format_of
from relay.core.hub import Hub
from relay.core.recovery import Snapshot
from relay.core.updates import Position, Update
from relay.protocols.frames import text_frame
from relay.protocols.tasks import PLAIN
from relay.server import trace_fan_out
from relay.server.trace_fan_out import FanOutTraces
from relay.traces import Span, SpanName

FORMAT = format_of(PLAIN, Framing(text_frame, b"".join))


class NotedSpan:
    def __init__(self, context: str) -> None:
        self.traceparent = context
        self.ended: Mapping[str, int] | None = None

    def end(self, attributes: Mapping[str, int] | None = None, error: str | None = None) -> None:
        assert error is None
        self.ended = attributes


class NotedTraces:
    """Notes the spans that are begun."""

    may_begin = False

    def __init__(self) -> None:
        self.spans: list[NotedSpan] = []

    def new_trace(self) -> str | None:
        return None

    def begin(self, name: SpanName, context: str, channel: str, started_at: float, way: str | None = None) -> Span:
        self.spans.append(NotedSpan(context))
        return self.spans[-1]


class IdleSubscriber:
    def offer(self, batch: Batch) -> None: ...


class World:
    """A hub with one live channel that has two subscribers."""

    def __init__(self) -> None:
        self.hub = Hub(lambda: None)
        self.traces = NotedTraces()
        self.fan_out = FanOutTraces(self.traces, self.hub)
        self.subscribers = [IdleSubscriber(), IdleSubscriber()]
        for subscriber in self.subscribers:
            self.hub.subscribe(subscriber, "task:t", FORMAT)
        self.hub.catch_up("task:t", Snapshot(Position("e", 0), None, None))

    def trace(self, offset: int, channel: str = "task:t", epoch: str = "e") -> None:
        self.fan_out.on_trace(channel, Position(epoch, offset), f"{offset}")

    def publish(self, offset: int) -> None:
        self.hub.on_publication(Update("task:t", "task_update", b"{}", 0.0, Position("e", offset)))

    def flush(self) -> None:
        self.hub.flush()
        self.fan_out.on_flushed()

    @property
    def ended(self) -> list[str]:
        return [span.traceparent for span in self.traces.spans if span.ended == {"relay.subscribers": 2}]


def test_a_span_ends_when_its_update_was_handed_out() -> None:
    world = World()
    world.trace(1)
    world.flush()  # of other channels
    assert world.ended == []
    world.publish(1)
    world.trace(3)
    world.publish(2)
    world.flush()
    assert world.ended == ["1"]
    world.publish(3)
    world.flush()
    assert world.ended == ["1", "3"]


def test_a_channel_without_subscribers_has_no_span() -> None:
    world = World()
    world.trace(1, "task:other")
    assert world.traces.spans == []


def test_a_channel_that_is_left_leaves_no_span() -> None:
    world = World()
    world.trace(1)
    for subscriber in world.subscribers:
        world.hub.unsubscribe(subscriber, "task:t", FORMAT)
    world.flush()
    for subscriber in world.subscribers:
        world.hub.subscribe(subscriber, "task:t", FORMAT)
    world.hub.catch_up("task:t", Snapshot(Position("e", 1), None, None))
    world.flush()
    assert world.ended == []


def test_no_more_are_open_than_allowed_and_none_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    now = 100.0
    monkeypatch.setattr(trace_fan_out, "monotonic", lambda: now)
    for offset in range(1, trace_fan_out._MAX_OPEN + 50):
        world.trace(offset, epoch="never")
    assert len(world.traces.spans) == trace_fan_out._MAX_OPEN
    now += trace_fan_out._MAX_AGE + 1
    world.trace(1)
    world.publish(1)
    world.flush()
    assert world.ended == ["1"]
    for offset in range(2, trace_fan_out._MAX_OPEN + 2):
        world.trace(offset)
    assert len(world.traces.spans) == 2 * trace_fan_out._MAX_OPEN + 1
