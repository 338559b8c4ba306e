"""Equal messages are counted for as long as Redis may be asked about them, and forgotten a few at a time."""

import pytest

from relay.core import occurrences
from relay.core.occurrences import DEDUP_WINDOW, MAX_LAG, OccurrenceCounter


def test_equal_messages_are_counted_as_long_as_each_follows_within_the_window() -> None:
    counter = OccurrenceCounter(100.0)
    numbers = [counter.count(b"x", 100.0 + 0.9 * DEDUP_WINDOW * times).number for times in range(5)]
    assert numbers == [1, 2, 3, 4, 5]
    assert counter.count(b"x", 100.0 + 0.9 * DEDUP_WINDOW * 4 + DEDUP_WINDOW + 0.1).number == 1


@pytest.mark.parametrize("age", [0.0, DEDUP_WINDOW / 2, DEDUP_WINDOW - 0.1])
def test_a_message_is_known_for_the_window_whenever_it_came(age: float) -> None:
    for began in range(13):
        counter = OccurrenceCounter(100.0)
        for second in range(30):
            counter.count(b"other %d" % second, 100.0 + second)
        counter.count(b"x", 130.0 + began)
        for part in range(1, 10):
            counter.count(b"more %d" % part, 130.0 + began + age * part / 10)
        assert counter.count(b"x", 130.0 + began + age).number == 2


def test_what_redis_had_counted_before_is_added_once_and_from_then_on_all_are_counted() -> None:
    counter = OccurrenceCounter(100.0)
    first = counter.count(b"x", 101.0)
    assert first.since == 100.0
    counter.on_persisted(first, 3)
    counter.on_persisted(first, 3)
    second = counter.count(b"x", 102.0)
    assert (second.number, second.since) == (5, 0.0)
    counter.count(b"y", 100.0 + DEDUP_WINDOW + 1.5)  # a generation later
    counter.on_persisted(second, 3)
    assert counter.count(b"x", 100.0 + DEDUP_WINDOW + 1.6).number == 6


def test_counting_begins_a_little_before_a_message_that_comes_long_after_the_start() -> None:
    counter = OccurrenceCounter(100.0)
    assert counter.count(b"x", 200.0).since == 200.0 - MAX_LAG
    counter.restart(300.0)
    assert counter.count(b"x", 300.0)[1:3] == (1, 300.0)


def test_no_more_are_kept_than_may_be_and_all_that_are_too_old_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occurrences, "MAX_DIGESTS", 2000)
    counter = OccurrenceCounter(100.0)

    def kept() -> int:
        return len(counter._recent) + len(counter._older) + len(counter._forgotten)

    for number in range(10_000):
        counter.count(b"%d" % number, 100.0)
        assert kept() <= 3000
    assert counter.count(b"9500", 100.0).number == 2
    for number in range(20):
        counter.count(b"later %d" % number, 113.0 + number * DEDUP_WINDOW)
    for number in range(100):
        counter.count(b"last %d" % number, 500.0)
    assert kept() < 130
