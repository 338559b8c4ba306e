"""Relays that are cut off from Redis in turn, for less than they wait for each other, persist everything in order."""

import pytest

from tests.core.plain_cuts import run_cuts


@pytest.mark.parametrize("relay_count", [2, 3])
@pytest.mark.parametrize("seed", [1, 2, 5, 10, 17, 46, 59, 60])
def test_relays_that_are_cut_off_again_and_again_persist_everything_in_order(seed: int, relay_count: int) -> None:
    cuts = run_cuts(seed, relay_count, faults=50)
    assert cuts.disorder == []
    assert cuts.log.keys() == cuts.received
