"""Which faults a run injects, and when."""

import random
from collections.abc import Callable, Collection
from pathlib import Path

import trio

from tests.faults.report import FaultReport
from tests.faults.rig import running

#: The relative frequency of each kind of fault.
KINDS = {
    "kill_redis": 16,
    "freeze_redis": 14,
    "cut_redis": 18,
    "stall_redis": 12,
    "cut_clients": 16,
    "stall_clients": 12,
    "kill_relay": 5,
    "deploy": 2,
}


def plan(seed: int, count: int, of: Collection[str] = KINDS.keys()) -> list[tuple[str, float, int]]:
    """Return the faults of a run: kind, duration in seconds, which of two servers. All kinds occur before any repeats."""
    draw = random.Random(seed)
    kinds = list(of)
    draw.shuffle(kinds)
    kinds += draw.choices(list(of), [KINDS[kind] for kind in of], k=max(0, count - len(kinds)))
    return [(kind, draw.uniform(0.2, 1.4), draw.randrange(2)) for kind in kinds[:count]]


async def run_faults(
    directory: Path, seed: int, count: int, log: Callable[[str], None], of: Collection[str] = KINDS.keys()
) -> FaultReport:
    """Inject the faults of `plan`; returns the report."""
    async with running(directory, seed, log) as rig:
        draw = random.Random(seed)
        for number, (kind, seconds, which) in enumerate(plan(seed, count, of), 1):
            log(f"{number:4}  {kind} {which + 1}, {seconds:.2f} s")
            await getattr(rig, kind)(seconds, which)
            rig.report.faults[kind] = rig.report.faults.get(kind, 0) + 1
            await trio.sleep(draw.uniform(0.1, 0.4))
            if kind == "kill_redis":
                # Plain publishes keep their order through one crash, but not through two within a second; see docs/redis.md.
                await trio.sleep(1.0)
    return rig.report


#: Seconds that a slow machine gets in addition.
_SLOW_MACHINE = 60.0


async def run_periodic_cuts(
    directory: Path,
    seed: int,
    every: float,
    lasting: float,
    seconds: float,
    log: Callable[[str], None],
    recoveries: int = 0,
) -> FaultReport:
    """Cut off all clients for `lasting` seconds, `every` so many seconds, for `seconds` in all; returns the report.

    On a slow machine it goes on until there are so many recoveries, for a minute at most.
    """
    async with running(directory, seed, log) as rig:
        ends = trio.current_time() + seconds
        with trio.move_on_after(seconds + _SLOW_MACHINE):
            while trio.current_time() < ends or rig.report.recoveries < recoveries:
                await trio.sleep(every - lasting)
                rig.report.faults["cut_all_clients"] = rig.report.faults.get("cut_all_clients", 0) + 1
                async with trio.open_nursery() as nursery:
                    for proxy in rig.to_relay:
                        nursery.start_soon(proxy.cut, lasting)
        for proxy in rig.to_relay:
            await proxy.cut(0)  # the time may have run out during a cut
    return rig.report
