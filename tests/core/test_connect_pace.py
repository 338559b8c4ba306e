"""The pace of connects: never more in a second than allowed, and places for those who must come back."""

from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.connect_pace import MAX_RETURN, MIN_RETURN, RETURN_SPREAD, ConnectPace, ReturnSchedule


def connects(pace: ConnectPace, pauses: list[float]) -> list[float]:
    """When clients come in of whom there are always more, if the event loop pauses now and then."""
    now, at = 1000.0, []
    for pause in pauses:
        now += pause
        now += pace.seconds_until_next(now)
        pace.take(now)
        at.append(now)
    return at


@given(
    st.one_of(st.integers(1, 400), st.sampled_from([0.5, 2.5, 99.9])),
    st.lists(st.one_of(st.just(0.0), st.floats(0, 3)), max_size=300),
)
def test_no_second_has_more_connects_than_allowed(rate: float, pauses: list[float]) -> None:
    at = connects(ConnectPace(rate), pauses)
    first = 0
    for last, moment in enumerate(at):
        while moment - at[first] >= 1.0 - 1e-9:
            first += 1
        assert last - first + 1 <= ceil(rate)


@pytest.mark.parametrize("rate", [1, 20, 100, 1000])
def test_the_limit_is_used_up_to_a_twentieth(rate: int) -> None:
    at = connects(ConnectPace(rate), [0.0] * (rate * 20))
    assert sum(moment - at[0] <= 5.0 for moment in at) >= 0.95 * 5 * rate


def test_each_who_must_come_back_has_a_place_of_its_own() -> None:
    schedule = ReturnSchedule(10.0, lambda: 0.0)
    places = [now + schedule.delay(now) for now in (0.0, 0.0, 0.0, 0.05)]
    assert places == pytest.approx([MIN_RETURN, MIN_RETURN + 0.1, MIN_RETURN + 0.2, MIN_RETURN + 0.3])
    assert schedule.delay(50.0) == pytest.approx(MIN_RETURN), "places that nobody took are not given again"
    assert schedule.delay(50.0, 4.0) == pytest.approx(4.0 + MIN_RETURN), "behind those who wait already"
    assert schedule.delay(50.0) == pytest.approx(4.1 + MIN_RETURN)


def test_without_a_limit_they_come_back_at_random_within_a_second() -> None:
    draws = iter([0.0, 0.25, 1.0])
    schedule = ReturnSchedule(0.0, lambda: next(draws))
    assert [schedule.delay(5.0) for _ in range(3)] == pytest.approx(
        [
            MIN_RETURN,
            MIN_RETURN + 0.25 * RETURN_SPREAD,
            MIN_RETURN + RETURN_SPREAD,
        ]
    )


def test_nobody_is_kept_away_for_long() -> None:
    schedule = ReturnSchedule(1.0, lambda: 0.5)
    delays = [schedule.delay(0.0) for _ in range(200)]
    assert max(delays) <= MAX_RETURN
    assert all(later - earlier == pytest.approx(1.0) for earlier, later in pairwise(delays[:50]))
    assert set(delays[100:]) == {MIN_RETURN + 0.5 * (MAX_RETURN - MIN_RETURN)}, "beyond that it is any time up to it"
