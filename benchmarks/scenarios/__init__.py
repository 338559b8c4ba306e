"""The scenarios, by name. Each is a module with `run`: a context in, a report out."""

from collections.abc import Callable

from benchmarks.results import Context, Report
from benchmarks.scenarios import burst, memory, slow

SCENARIOS: dict[str, Callable[[Context], Report]] = {
    "burst": burst.run,
    "slow": slow.run,
    "memory": memory.run,
}
