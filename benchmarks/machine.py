"""The machine and its processes: cores, CPU time, memory, facts for the result."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

_AVAILABLE = sorted(os.sched_getaffinity(0))

#: The server has a core of its own; load, publisher and Redis share the other. With only one nothing can be kept apart.
LOAD_CORE, SERVER_CORE = _AVAILABLE[0], _AVAILABLE[-1] if len(_AVAILABLE) < 2 else _AVAILABLE[1]

_PACKAGES = ("trio-relay", "trio", "hypercorn", "quart-trio", "redis", "hiredis", "picows", "uvloop", "websockets")


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Processes started inside run on this core; so does this thread as long as the block lasts."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Cpu(NamedTuple):
    """Seconds that a process ran, and seconds that it waited for a core that others had."""

    ran: float
    waited: float

    def since(self, before: "Cpu") -> "Cpu":
        """The difference."""
        return Cpu(self.ran - before.ran, self.waited - before.waited)


def cpu_of(pid: int) -> Cpu:
    """CPU time of a process so far, all threads, in nanosecond steps where the kernel has them."""
    ran = waited = 0
    try:
        for stats in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            values = stats.read_text().split()
            ran += int(values[0])
            waited += int(values[1])
    except (OSError, IndexError):
        ran = 0
    if ran:
        return Cpu(ran / 1e9, waited / 1e9)
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Cpu((int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK"), 0.0)


def memory_of(pid: int) -> int:
    """Resident bytes of a process, exactly: the quick counters of the kernel may lag behind by megabytes."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Rss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # an old kernel, or one without CONFIG_PROC_PAGE_MONITOR
    return quick_memory_of(pid)


def quick_memory_of(pid: int) -> int:
    """Resident bytes by the kernel's counter, cheap enough to be asked while measuring."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def facts() -> dict[str, Any]:
    """What a reader of the figures must know of the machine."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), platform.machine())
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": model,
        "cores": len(_AVAILABLE),
        "memory_gb": round(pages / 2**30, 1),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "load_average": os.getloadavg()[0],
        "packages": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
        "commit": _commit(),
    }
