"""The fault run in short; `make faults` is the long one."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.rig import break_things, cut_regularly

# trio-websocket leaves the socket of a handshake that was cut off to the garbage collector; it is the clients', not Relay's.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _sockets_of_this_test_only() -> Iterator[None]:
    yield
    gc.collect()


async def test_a_dozen_faults(tmp_path: Path) -> None:
    ledger = await break_things(tmp_path, seed=3, count=12, say=print)
    print(ledger.table())
    assert ledger.is_good
    assert ledger.acknowledged > 100
    assert ledger.recoveries > 0


async def test_clients_cut_over_and_over_get_everything(tmp_path: Path) -> None:
    ledger = await cut_regularly(tmp_path, seed=1, every=1.0, lasting=0.4, seconds=10.0, say=print)
    print(ledger.table())
    assert ledger.is_good
    assert ledger.gaps_announced == 0
    assert ledger.recoveries > 40  # of 20 clients with three tasks each, however slow the machine
