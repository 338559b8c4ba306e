"""The fault run in its short form: each kind of fault once. `make faults` is the long form."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.runs import KINDS, run_faults, run_periodic_cuts

# If a handshake is cut off, trio-websocket, which the clients use, leaves its socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _sockets_of_this_test_only() -> Iterator[None]:
    yield
    gc.collect()


async def test_each_fault_once(tmp_path: Path) -> None:
    report = await run_faults(tmp_path, seed=3, count=len(KINDS), log=print)
    print(report.table())
    assert report.passed
    assert report.acknowledged > 100
    assert report.recoveries > 0


async def test_clients_cut_over_and_over_get_everything(tmp_path: Path) -> None:
    report = await run_periodic_cuts(tmp_path, seed=1, every=1.0, lasting=0.4, seconds=6.0, log=print, recoveries=40)
    print(report.table())
    assert report.passed
    assert report.gaps_announced == 0
    assert report.recoveries >= 40  # 20 clients with three tasks each


async def test_relays_that_are_cut_off_from_redis_in_turn_keep_the_order_of_plain_publishes(tmp_path: Path) -> None:
    report = await run_faults(tmp_path, seed=3, count=20, log=print, of=["cut_redis"])
    print(report.table())
    assert report.passed
    assert report.plain_recorded > 100
