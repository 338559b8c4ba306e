"""What was read a moment ago, and delivered since, is what a read would bring; and it is bounded."""

from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core import recent_history
from relay.core.families import family_channel
from relay.core.hub import Hub
from relay.core.recent_history import MAX_AGE, MAX_BYTES, RecentHistories, RecentHistory
from relay.core.recovery import ChannelSequence, Snapshot
from relay.core.shared_updates import SharedUpdates
from relay.core.updates import Position, Update
from tests.core.world import NUMBERED, updates

TASK = "task:t"


def at(offset: int, epoch: str = "e") -> Position:
    return Position(epoch, offset)


def read(since: int, top: int, owner: frozenset[str] = frozenset()) -> Snapshot:
    """What Redis answers about what came after an offset."""
    return Snapshot(at(top), SharedUpdates(updates("e", *range(since + 1, top + 1))), None, owner)


class Channel:
    """A channel whose sequence is somewhere."""

    def __init__(self, top: int) -> None:
        self.sequence = ChannelSequence()
        self.sequence.merge(Snapshot(at(top), [], None))
        self.recent: RecentHistory | None = None

    def deliver(self, offset: int) -> None:
        (update,) = updates("e", offset)
        assert self.sequence.admit(update)
        if self.recent is not None:
            self.recent.record(update)


@given(st.lists(st.one_of(st.integers(1, 3), st.tuples(st.integers(0, 30), st.integers(0, 4))), max_size=20))
def test_what_is_known_is_what_redis_has(steps: list[int | tuple[int, int]]) -> None:
    """Numbers are updates that are delivered, pairs are clients that return: how far back, and what comes while one reads."""
    channel, top = Channel(10), 10
    histories = RecentHistories({TASK: channel})
    for step in steps:
        if isinstance(step, int):
            for _ in range(step):
                top += 1
                channel.deliver(top)
            continue
        since, meanwhile = max(0, top - step[0]), step[1]
        known = histories.find(TASK, at(since), 0.0)
        if known is None:
            snapshot = read(since, top + meanwhile)  # which has what was not delivered yet
            for _ in range(meanwhile):
                top += 1
                channel.deliver(top)
            histories.learn(TASK, at(since), snapshot, 0.0)
        else:
            assert known == Snapshot(at(top), tuple(updates("e", *range(since + 1, top + 1))), None)
        # Whoever comes next from there needs no read.
        again = histories.find(TASK, at(since), 0.0)
        assert again is not None
        assert [update.position for update in again.entries or ()] == [at(n) for n in range(since + 1, top + 1)]


def test_clients_with_equal_positions_get_the_same_object_until_the_next_update() -> None:
    channel = Channel(5)
    histories = RecentHistories({TASK: channel})
    assert histories.find(TASK, at(2), 0.0) is None
    histories.learn(TASK, at(2), read(2, 5), 0.0)
    first, second = (histories.find(TASK, at(3), 0.0) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.entries is second.entries
    channel.deliver(6)
    third = histories.find(TASK, at(3), 0.0)
    assert third is not None
    assert third.entries == tuple(updates("e", 4, 5, 6))


@pytest.mark.parametrize("since", [at(1), at(6), at(3, "other"), at(-1)])
def test_what_is_beyond_what_was_read_has_to_be_read(since: Position) -> None:
    channel = Channel(5)
    histories = RecentHistories({TASK: channel})
    assert histories.find(TASK, at(2), 0.0) is None
    histories.learn(TASK, at(2), read(2, 5), 0.0)
    assert histories.find(TASK, since, 0.0) is None


@pytest.mark.parametrize(
    "snapshot",
    [
        Snapshot(at(5), None, None),
        Snapshot(at(5), updates("e", 3), None),  # the first part
        Snapshot(at(3), updates("e", 3), None),  # older than what was delivered before
        Snapshot(at(5, "new"), updates("new", 3, 4, 5), None),
    ],
    ids=["gone", "partial", "old", "another epoch"],
)
def test_a_read_with_a_gap_after_it_is_not_shared(snapshot: Snapshot) -> None:
    channel = Channel(5)
    histories = RecentHistories({TASK: channel})
    assert histories.find(TASK, at(2), 0.0) is None
    histories.learn(TASK, at(2), snapshot, 0.0)
    assert histories.find(TASK, at(2), 0.0) is None


def test_a_sequence_that_is_not_live_shares_nothing() -> None:
    channel = Channel(5)
    histories = RecentHistories({TASK: channel})
    histories.learn(TASK, at(2), read(2, 5), 0.0)
    assert histories.find(TASK, at(2), 0.0) is not None
    channel.sequence.disconnect()
    assert histories.find(TASK, at(2), 0.0) is None


def test_what_is_too_old_is_read_again() -> None:
    channel = Channel(5)
    histories = RecentHistories({TASK: channel})
    histories.learn(TASK, at(2), read(2, 5), 0.0)
    channel.deliver(6)
    assert histories.find(TASK, at(2), MAX_AGE) is not None
    assert histories.find(TASK, at(2), MAX_AGE + 0.1) is None
    assert histories.find(TASK, at(2), MAX_AGE + 0.1) is None, "only a read makes it known again"
    assert histories.expire(3 * MAX_AGE) == 0


def test_the_bytes_of_one_channel_are_bounded() -> None:
    channel = Channel(5)
    histories = RecentHistories({TASK: channel})
    histories.learn(TASK, at(2), read(2, 5), 0.0)
    recent = channel.recent
    assert recent is not None
    large = Update("task:t", "task_update", b"x" * MAX_BYTES, 0.0, at(6))
    assert channel.sequence.admit(large)
    recent.record(large)
    assert recent.is_over
    assert recent.size == 0
    assert histories.find(TASK, at(2), 0.0) is None


def test_the_bytes_of_all_channels_are_bounded() -> None:
    channels = [Channel(5) for _ in range(10)]
    histories = RecentHistories({str(number): channel for number, channel in enumerate(channels)})
    with patch.object(recent_history, "TOTAL_BYTES", 1000):
        for number in range(len(channels)):
            histories.learn(str(number), at(2), read(2, 5), 0.0)
        kept = [channel for channel in channels if channel.recent is not None and not channel.recent.is_over]
        assert kept == channels[-len(kept) :], "the newest stay"
        assert 0 < sum(channel.recent.size for channel in kept if channel.recent is not None) <= 1000
        channels[-1].deliver(6)
        channels[-1].deliver(7)
        assert histories.expire(0.0) < len(kept)


def test_what_is_encoded_is_bounded() -> None:
    """Clients from many positions must not have the same updates kept in as many encodings."""
    channel = Channel(200)
    histories = RecentHistories({TASK: channel})
    histories.learn(TASK, at(0), read(0, 200), 0.0)
    encoded: list[SharedUpdates] = []
    for offset in range(200):
        snapshot = histories.find(TASK, at(offset), 0.0)
        assert snapshot is not None
        assert isinstance(snapshot.entries, SharedUpdates)
        snapshot.entries.pages(NUMBERED, 256, 65536)
        encoded.append(snapshot.entries)
    again = [histories.find(TASK, at(offset), 0.0) for offset in range(200)]
    kept = sum(each is not None and each.entries is entries for each, entries in zip(again, encoded, strict=True))
    assert 0 < kept < 50


def test_the_positions_for_which_something_is_shared_are_bounded() -> None:
    """Also for clients with encodings of their own, as on event streams: nothing is encoded for them together."""
    channel = Channel(1000)
    histories = RecentHistories({TASK: channel})
    histories.learn(TASK, at(0), read(0, 1000), 0.0)
    first = [histories.find(TASK, at(offset), 0.0) for offset in range(1000)]
    again = [histories.find(TASK, at(offset), 0.0) for offset in reversed(range(1000))]
    kept = sum(
        one is not None and other is not None and one.entries is other.entries
        for one, other in zip(first, reversed(again), strict=True)
    )
    assert 0 < kept <= 256


def test_news_of_the_owner_end_what_is_known() -> None:
    """For the next client Redis is read, and not what was read for others before."""
    hub = Hub(lambda: None)
    hub.pin("task:t")
    hub.catch_up("task:t", Snapshot(at(5), [], None, frozenset({"user:a"})))
    hub.histories.learn("task:t", at(2), read(2, 5, frozenset({"user:a"})), 0.0)
    known = hub.histories.find("task:t", at(2), 0.0)
    assert known is not None
    assert known.owner == {"user:a"}
    hub.on_owner("task:t", frozenset({"user:b"}))
    assert hub.histories.find("task:t", at(2), 0.0) is None


def test_a_family_is_always_read() -> None:
    """Reading it has Redis keep it."""
    name = family_channel("task:t")
    histories = RecentHistories({name: Channel(5)})
    histories.learn(name, at(2), read(2, 5), 0.0)
    assert histories.find(name, at(2), 0.0) is None
