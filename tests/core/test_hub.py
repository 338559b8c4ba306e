"""The hub: each update encoded once per format, in order, to exactly those who follow its channel."""

from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.batches import Batch, Format, Framing
from relay.core.client_subscriptions import SubscriptionSet
from relay.core.hub import FLUSH_BYTES, Hub
from relay.core.recovery import Snapshot
from relay.core.subscription import Request
from relay.core.updates import Position, Update


def update(channel: str, data: str, position: Position | None = None) -> Update:
    return Update(channel, "message", data.encode(), 0.0, position)


class CountingEncoding:
    """Remembers what it was asked to encode."""

    stateful = False
    whole_values = False

    def __init__(self) -> None:
        self.encoded: list[bytes] = []

    def hides(self, update: Update) -> bool:
        return False

    def encode(self, update: Update) -> bytes:
        self.encoded.append(update.data)
        return update.data

    def reset(self, channel: str, snapshot: Snapshot) -> Iterable[bytes]:
        return ()


class CountingFormat(Format):
    """Frames are texts with a mark."""

    def __init__(self, mark: str = "") -> None:
        self.counter = CountingEncoding()
        super().__init__(self.counter, Framing(lambda payload: mark + payload.decode(), tuple))

    @property
    def encoded(self) -> list[bytes]:
        return self.counter.encoded


class RecordingSubscriber:
    """A subscriber that keeps what it is offered."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.on_offer: Callable[[], None] = lambda: None

    def offer(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.on_offer()

    @property
    def received(self) -> list[str]:
        return [frame for batch in self.batches for frame in batch.chunk]


@pytest.fixture
def turns() -> list[str]:
    """What the hub called back, in order."""
    return []


@pytest.fixture
def hub(turns: list[str]) -> Hub:
    return Hub(
        on_pending=lambda: turns.append("pending"),
        on_first_subscriber=lambda channel: turns.append(f"+{channel}"),
        on_last_unsubscribed=lambda channel: turns.append(f"-{channel}"),
    )


def test_an_update_is_encoded_once_for_each_format_however_many_listen(hub: Hub) -> None:
    plain, loud = CountingFormat(), CountingFormat("!")
    subscribers = [RecordingSubscriber() for _ in range(5)]
    for number, subscriber in enumerate(subscribers):
        hub.subscribe(subscriber, "a", loud if number == 4 else plain)
    hub.on_publication(update("a", "x"))
    hub.flush()
    assert (plain.encoded, loud.encoded) == ([b"x"], [b"x"])
    assert [subscriber.received for subscriber in subscribers] == [["x"]] * 4 + [["!x"]]


def test_an_update_that_nobody_follows_costs_nothing(hub: Hub, turns: list[str]) -> None:
    format, subscriber = CountingFormat(), RecordingSubscriber()
    hub.subscribe(subscriber, "a", format)
    hub.on_publication(update("b", "x"))
    assert turns == ["+a"]  # no turn was asked for
    hub.flush()
    assert (format.encoded, subscriber.batches) == ([], [])


def test_channels_are_interleaved_as_they_came_and_shared_by_those_who_follow_the_same(hub: Hub) -> None:
    format = CountingFormat()
    both, also_both, only_b = RecordingSubscriber(), RecordingSubscriber(), RecordingSubscriber()
    for subscriber in (both, also_both):
        hub.subscribe(subscriber, "a", format)
        hub.subscribe(subscriber, "b", format)
    hub.subscribe(only_b, "b", format)
    for channel, data in (("b", "1"), ("a", "2"), ("b", "3"), ("a", "4")):
        hub.on_publication(update(channel, data))
    hub.flush()
    assert both.received == ["1", "2", "3", "4"]
    assert only_b.received == ["1", "3"]
    assert len(both.batches) == 1  # one write for all of it
    assert both.batches[0] is also_both.batches[0]
    assert (both.batches[0].count, both.batches[0].size) == (4, 4)


@pytest.mark.parametrize("channels", [("a",), ("a", "b")])
def test_a_subscriber_may_leave_while_it_is_offered_something(hub: Hub, channels: tuple[str, ...]) -> None:
    format, leaving, staying = CountingFormat(), RecordingSubscriber(), RecordingSubscriber()

    def leave() -> None:
        for channel in channels:
            hub.unsubscribe(leaving, channel, format)

    leaving.on_offer = leave
    for subscriber in (leaving, staying):
        for channel in channels:
            hub.subscribe(subscriber, channel, format)
    for data in ("1", "2"):
        for channel in channels:
            hub.on_publication(update(channel, data))
        hub.flush()
    assert leaving.received == ["1"] * len(channels)
    assert staying.received == ["1"] * len(channels) + ["2"] * len(channels)
    assert hub.subscriptions == len(channels)


def test_a_turn_is_asked_for_once_until_it_is_flushed(hub: Hub, turns: list[str]) -> None:
    format = CountingFormat()
    hub.subscribe(RecordingSubscriber(), "a", format)
    hub.subscribe(RecordingSubscriber(), "b", format)
    turns.clear()
    for _ in range(3):
        hub.on_publication(update("a", "x"))
        hub.on_publication(update("b", "x"))
    assert turns == ["pending"]
    hub.flush()
    hub.on_publication(update("b", "x"))
    assert turns == ["pending", "pending"]


def test_a_channel_is_watched_from_its_first_subscriber_to_its_last(hub: Hub, turns: list[str]) -> None:
    plain, loud, one, two = CountingFormat(), CountingFormat("!"), RecordingSubscriber(), RecordingSubscriber()
    hub.subscribe(one, "a", plain)
    hub.subscribe(one, "a", plain)  # again: changes nothing
    hub.subscribe(two, "a", loud)
    assert (turns, hub.subscriptions, list(hub.channels)) == (["+a"], 2, ["a"])
    hub.unsubscribe(one, "a", plain)
    hub.unsubscribe(one, "a", plain)
    hub.unsubscribe(one, "b", plain)
    assert (turns, hub.subscriptions) == (["+a"], 1)
    hub.unsubscribe(two, "a", loud)
    assert (turns, hub.subscriptions, list(hub.channels)) == (["+a", "-a"], 0, [])


def test_a_channel_that_is_kept_is_followed_before_its_first_subscriber_and_after_its_last(
    hub: Hub, turns: list[str]
) -> None:
    hub.pin("a")
    hub.catch_up("a", Snapshot(Position("e", 4), None, None))
    hub.on_publication(update("a", "x", position=Position("e", 5)))
    assert (turns, hub.position("a")) == (["+a"], Position("e", 5))
    format, subscriber = CountingFormat(), RecordingSubscriber()
    hub.subscribe(subscriber, "a", format)
    hub.on_publication(update("a", "y", position=Position("e", 6)))
    hub.flush()
    assert subscriber.received == ["y"], "at once: nothing has to be read before"
    hub.unsubscribe(subscriber, "a", format)
    assert (turns, list(hub.channels), list(hub.subscriber_counts())) == (["+a", "pending"], ["a"], [])


def test_who_comes_between_two_updates_of_a_turn_gets_the_second(hub: Hub) -> None:
    format, early, late = CountingFormat(), RecordingSubscriber(), RecordingSubscriber()
    hub.subscribe(early, "a", format)
    hub.on_publication(update("a", "1"))
    hub.subscribe(late, "a", format)
    hub.on_publication(update("a", "2"))
    hub.flush()
    assert (early.received, late.received) == (["1", "2"], ["2"])
    assert format.encoded == [b"1", b"2"]


def test_who_has_left_by_the_flush_gets_nothing_and_a_channel_without_subscribers_is_dropped(hub: Hub) -> None:
    format, subscriber = CountingFormat(), RecordingSubscriber()
    hub.subscribe(subscriber, "a", format)
    hub.on_publication(update("a", "x"))
    hub.unsubscribe(subscriber, "a", format)
    hub.flush()
    assert subscriber.batches == []


#: The first two share a format.
SUBSCRIBERS, CHANNELS = range(3), "ab"
ops = st.one_of(
    st.tuples(st.sampled_from(["subscribe", "unsubscribe"]), st.sampled_from(SUBSCRIBERS), st.sampled_from(CHANNELS)),
    st.tuples(st.just("publish"), st.just(0), st.sampled_from(CHANNELS)),
    st.tuples(st.just("flush"), st.just(0), st.just("")),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(ops, max_size=40))
def test_every_interleaving_delivers_what_was_published_while_subscribed(script: list[tuple[str, int, str]]) -> None:
    """Once and in order: all of it to who is still there at the flush, and never anything else."""
    hub = Hub(on_pending=lambda: None)
    formats = CountingFormat(), CountingFormat()
    subscribers = [RecordingSubscriber() for _ in SUBSCRIBERS]
    followed: list[dict[str, list[int]]] = [{} for _ in SUBSCRIBERS]  # by channel: what came and is not flushed
    may: list[set[int]] = [set() for _ in SUBSCRIBERS]
    must: list[set[int]] = [set() for _ in SUBSCRIBERS]

    def flush() -> None:
        hub.flush()
        for who in SUBSCRIBERS:
            for numbers in followed[who].values():
                must[who].update(numbers)
                numbers.clear()

    for number, (verb, who, channel) in enumerate(script):
        format = formats[who // 2]
        if verb == "subscribe":
            followed[who].setdefault(channel, [])
            hub.subscribe(subscribers[who], channel, format)
        elif verb == "unsubscribe":
            followed[who].pop(channel, None)
            hub.unsubscribe(subscribers[who], channel, format)
        elif verb == "publish":
            for who in SUBSCRIBERS:
                if channel in followed[who]:
                    may[who].add(number)
                    followed[who][channel].append(number)
            hub.on_publication(update(channel, str(number)))
        else:
            flush()
    flush()
    for who, subscriber in enumerate(subscribers):
        received = [int(frame) for frame in subscriber.received]
        assert received == sorted(set(received))
        assert must[who] <= set(received) <= may[who]
    assert hub.subscriptions == sum(map(len, followed))
    assert set(hub.channels) == {channel for channels in followed for channel in channels}
    for format in formats:
        assert len(format.encoded) == len(set(format.encoded))


class StatefulFormat(CountingFormat):
    """Shows resets too."""

    def __init__(self) -> None:
        super().__init__()
        self.counter.reset = lambda channel, snapshot: [b"reset to %d" % snapshot.top.offset]  # type: ignore[method-assign]


def test_only_the_subscriber_that_lacks_the_state_gets_it_and_in_its_place(hub: Hub) -> None:
    """A newcomer while Redis is away is no reason to reset those who were there before."""
    format, early, newcomer = StatefulFormat(), RecordingSubscriber(), RecordingSubscriber()
    hub.subscribe(early, "a", format)
    hub.catch_up("a", Snapshot(Position("e", 0), None, None))
    hub.on_disconnect(["a"])
    hub.subscribe(newcomer, "a", format, needs_snapshot=True)
    missed = Update("a", "message", b"1", 0.0, Position("e", 1))
    newer = Update("a", "message", b"2", 0.0, Position("e", 2))
    hub.on_publication(newer)
    hub.catch_up("a", Snapshot(Position("e", 1), [missed], None))
    hub.flush()
    assert early.received == ["1", "2"]
    assert newcomer.received == ["1", "reset to 1", "2"]
    assert hub.resets == 0


def test_a_channel_is_full_by_the_bytes_that_are_pending_as_well(hub: Hub) -> None:
    hub.subscribe(RecordingSubscriber(), "a", CountingFormat())
    seen = []
    for size in (FLUSH_BYTES // 2, FLUSH_BYTES // 2, 1):
        hub.on_publication(update("a", "x" * size))
        seen.append(hub.is_full)
        if hub.is_full:
            hub.flush()
    assert seen == [False, True, False]


def test_a_subscriber_that_is_closed_for_what_a_subscription_flushes_leaves_nothing(hub: Hub) -> None:
    """Subscribing flushes what came before; that may close any subscriber, the one that subscribes among them."""
    format, other = CountingFormat(), CountingFormat("!")
    closing = RecordingSubscriber()
    subscriptions = SubscriptionSet(hub, closing)
    closing.on_offer = subscriptions.close
    for channel in ("a", "b"):
        hub.catch_up(channel, Snapshot(Position("e", 0), None, None))
    subscription = subscriptions.start(Request("a", format, lambda _: [], wants_history=False))
    assert subscription is not None
    subscription.next_effect()
    staying = RecordingSubscriber()
    hub.subscribe(staying, "b", other)
    hub.on_publication(update("a", "1"))
    hub.on_publication(update("b", "2"))
    late = subscriptions.start(Request("b", other, lambda _: [], wants_history=False))
    assert late is not None
    late.next_effect()
    assert (hub.subscriptions, list(hub.channels)) == (1, ["b"])
    assert staying.received == ["!2"]


def test_messages_with_offset_0_are_never_delivered() -> None:
    """Relays before traces take the messages with trace contexts for updates, so these must not change a sequence."""
    gaps: list[str] = []
    hub = Hub(on_pending=lambda: None, on_gap=gaps.append)
    format, subscriber = CountingFormat(), RecordingSubscriber()
    hub.subscribe(subscriber, "a", format)
    hub.on_publication(update("a", "trace", Position("e", 0)))  # while the snapshot is awaited
    hub.on_publication(update("a", "1", Position("e", 1)))
    hub.catch_up("a", Snapshot(Position("e", 0), None, None))
    for offset in range(2, 4):
        hub.on_publication(update("a", "trace", Position("e", 0)))
        hub.on_publication(update("a", str(offset), Position("e", offset)))
    assert gaps == []
    # A new life: its first update would ask for a snapshot as well.
    hub.on_publication(update("a", "trace", Position("f", 0)))
    hub.on_publication(update("a", "f1", Position("f", 1)))
    assert gaps == ["a"]
    state = update("a", "f1", Position("f", 1))
    hub.catch_up("a", Snapshot(Position("f", 1), None, state))
    hub.on_publication(update("a", "f2", Position("f", 2)))
    hub.flush()
    assert subscriber.received == ["1", "2", "3", "f2"]
    assert hub.position("a") == Position("f", 2)


class TracedFormat(CountingFormat):
    """Has trace contexts as well."""

    def __init__(self) -> None:
        super().__init__()
        counter = self.counter
        counter.trace = lambda channel, position, context: f"{channel} {position.offset} {context}".encode()  # type: ignore[attr-defined]


def test_a_trace_context_comes_before_its_update_to_those_who_want_it(hub: Hub) -> None:
    plain, traced, both = RecordingSubscriber(), RecordingSubscriber(), RecordingSubscriber()
    plain_format, traced_format = CountingFormat(), TracedFormat()
    hub.subscribe(plain, "a", plain_format)
    for subscriber, channels in ((traced, "a"), (both, "ab")):
        for channel in channels:
            hub.subscribe(subscriber, channel, traced_format)
    hub.catch_up("a", Snapshot(Position("e", 0), None, None))
    hub.on_publication(update("b", "other"))
    hub.on_trace("a", Position("e", 1), "context")
    hub.on_publication(update("a", "1", Position("e", 1)))
    hub.on_trace("c", Position("e", 1), "of no channel here")
    hub.flush()
    assert plain.received == ["1"]
    assert traced.received == ["a 1 context", "1"]
    assert both.received == ["other", "a 1 context", "1"]
    assert (hub.subscriber_count("a"), hub.subscriber_count("b"), hub.subscriber_count("c")) == (3, 1, 0)
