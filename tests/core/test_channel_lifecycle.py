"""The life of a channel, against a model of what Redis and the hub know of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.channel_lifecycle import ChannelEvent, ChannelLifecycles, ChannelState

EVENTS = st.lists(st.sampled_from(list(ChannelEvent)), max_size=60)


@given(EVENTS)
def test_whatever_happens_a_wanted_channel_comes_to_be_live(events: list[ChannelEvent]) -> None:
    lifecycles = ChannelLifecycles[int]()
    wanted = False
    for event in events:
        before = lifecycles.state("c")
        lifecycles.apply(event, "c")
        # The broker reports what the hub says, and nothing else makes a channel known or forgotten.
        wanted = event is ChannelEvent.WANTED or (wanted and event is not ChannelEvent.UNWANTED)
        after = lifecycles.state("c")
        leaving = (ChannelState.LEAVING, ChannelState.LEAVING_UNCONFIRMED)
        assert wanted == (after is not None and after not in leaving), (before, event, after)
    lifecycles.apply(ChannelEvent.WANTED, "c")
    # What the tasks of the broker do, in their order, when nothing fails.
    for event in (
        ChannelEvent.RETRY,
        ChannelEvent.SUBSCRIBE_SENT,
        ChannelEvent.CONFIRMED,
        ChannelEvent.CAUGHT_UP,
        ChannelEvent.READ_SENT,
        ChannelEvent.CAUGHT_UP,
    ):
        lifecycles.apply(event, "c")
    assert lifecycles.state("c") is ChannelState.LIVE


@given(EVENTS)
def test_an_unwanted_channel_is_forgotten(events: list[ChannelEvent]) -> None:
    lifecycles = ChannelLifecycles[int]()
    for event in events:
        lifecycles.apply(event, "c")
    lifecycles.apply(ChannelEvent.UNWANTED, "c")
    lifecycles.apply(ChannelEvent.UNSUBSCRIBE_SENT, "c")
    assert (lifecycles.state("c"), len(lifecycles)) == (None, 0)


@given(EVENTS)
def test_it_is_confirmed_only_from_a_confirmation_to_the_end_of_the_connection(events: list[ChannelEvent]) -> None:
    lifecycles = ChannelLifecycles[int]()
    is_sent = is_confirmed = False
    for event in events:
        before = lifecycles.state("c")
        lifecycles.apply(event, "c")
        after = lifecycles.state("c")
        if event is ChannelEvent.SUBSCRIBE_SENT and before is ChannelState.NEEDED:
            is_sent, is_confirmed = True, False
        elif event is ChannelEvent.CONFIRMED:
            is_confirmed = is_sent
        elif event is ChannelEvent.DISCONNECTED or after is None:
            is_sent = is_confirmed = False
        assert lifecycles.is_confirmed("c") == is_confirmed, (before, event, after)


@pytest.mark.parametrize(
    ("name", "state"),
    [(state.name, state) for state in ChannelState],
)
def test_each_state_is_in_the_table(name: str, state: ChannelState) -> None:
    assert ChannelLifecycles.__doc__ is not None
    assert any(line.strip().startswith(f"{name} ") for line in ChannelLifecycles.__doc__.splitlines()), state


def test_channels_come_in_the_order_in_which_they_got_where_they_are() -> None:
    lifecycles = ChannelLifecycles[int]()
    for channel in "abc":
        lifecycles.apply(ChannelEvent.WANTED, channel)
    lifecycles.apply_all(ChannelEvent.SUBSCRIBE_SENT, "abc")
    lifecycles.apply_all(ChannelEvent.CONFIRMED, "cab")
    assert lifecycles.in_state(ChannelState.BEHIND, 2) == ["c", "a"]
    assert lifecycles.has(ChannelState.BEHIND)
    assert not lifecycles.has(ChannelState.LIVE, ChannelState.NEEDED)


def test_reads_wait_until_their_channel_is_live() -> None:
    lifecycles = ChannelLifecycles[int]()
    lifecycles.apply(ChannelEvent.WANTED, "c")
    assert lifecycles.add_read("c", 1)
    assert lifecycles.add_read("c", 2)
    for event in (ChannelEvent.SUBSCRIBE_SENT, ChannelEvent.CONFIRMED, ChannelEvent.READ_SENT, ChannelEvent.CAUGHT_UP):
        lifecycles.apply(event, "c")
    assert lifecycles.take_reads("c") == [1, 2]
    assert lifecycles.take_reads("c") == []
    assert not lifecycles.add_read("c", 3)
    lifecycles.apply(ChannelEvent.GAP, "c")
    assert lifecycles.add_read("c", 4)
    assert lifecycles.channels_with_reads() == ["c"]
