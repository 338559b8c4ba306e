"""Relays that are cut off from Redis in turn, for less than they wait for each other, persist everything in order."""

import pytest

from tests.core.plain_cuts import run_cuts, run_cuts_and_kills


@pytest.mark.parametrize("relay_count", [2, 3])
@pytest.mark.parametrize("seed", [1, 2, 5, 10, 17, 46, 59, 60])
def test_relays_that_are_cut_off_again_and_again_persist_everything_in_order(seed: int, relay_count: int) -> None:
    cuts = run_cuts(seed, relay_count, faults=50)
    assert cuts.disorder == []
    assert cuts.log.keys() == cuts.received


@pytest.mark.parametrize("relay_count", [2, 3])
@pytest.mark.parametrize("seed", [2, 10, 12, 16, 33, 35, 40])
def test_relays_wait_for_one_that_holds_back_earlier_however_many_die_meanwhile(seed: int, relay_count: int) -> None:
    cuts = run_cuts_and_kills(seed, relay_count, faults=50)
    assert cuts.disorder == []
    assert cuts.log.keys() <= cuts.received, "what only a killed relay had is gone"
    assert max(cuts.delays) < 12.0
