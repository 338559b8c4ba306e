"""What worker processes share besides the numbers that prometheus_client adds up: who they are, and what Redis uses.

All lies in the directory of ``PROMETHEUS_MULTIPROC_DIR``, in files whose names end with the worker: its number under
`relay serve --workers`, its process id under another server. What a dead worker leaves there must not count.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
from prometheus_client import ProcessCollector, values
from prometheus_client.core import Metric
from prometheus_client.multiprocess import mark_process_dead
from prometheus_client.registry import Collector

_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

#: The number that the supervisor of this process has given it, if there is one.
_numbers: list[int] = []


class RedisUsage(Protocol):
    """The usage of one Redis server, as `relay.broker.server_usage` has it. A number that is not known is None."""

    @property
    def memory_used(self) -> int | None: ...
    @property
    def memory_max(self) -> int | None: ...
    @property
    def connected_clients(self) -> int | None: ...
    @property
    def evicted_keys(self) -> int | None: ...


class _SeenUsage(NamedTuple):
    """A usage that a worker has written into its file."""

    memory_used: int | None
    memory_max: int | None
    connected_clients: int | None
    evicted_keys: int | None


_decode_usage = msgspec.json.Decoder(dict[str, _SeenUsage]).decode


def identify_worker(number: int) -> None:
    """Write this worker's metrics to the files of its number, so that one that replaces it goes on counting there.

    Without effect where no ``PROMETHEUS_MULTIPROC_DIR`` is shared. Call it before the metrics are made.
    """
    if _DIRECTORY in os.environ:
        values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]
        _numbers[:] = [number]


def forget_worker(worker: int, directory: Path) -> None:
    """Remove what is no longer so of a worker that has ended: its gauges, its process, its look at Redis.

    Its counters and histograms stay.

    Args:
        worker: Its number, or its process id.
        directory: The shared directory.
    """
    mark_process_dead(worker, str(directory))  # type: ignore[no-untyped-call]
    for path in (_pid_file(directory, worker), _usage_file(directory, worker)):
        path.unlink(missing_ok=True)


def _pid_file(directory: Path, worker: int) -> Path:
    return directory / f"process_{worker}.pid"


def _usage_file(directory: Path, worker: int) -> Path:
    return directory / f"redis_{worker}.json"


class WorkerFiles(Collector):
    """The files of this worker, and a look at those of all workers.

    Args:
        directory: The shared directory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._is_supervised = bool(_numbers)
        self._worker = _numbers[0] if _numbers else os.getpid()
        _pid_file(directory, self._worker).write_text(str(os.getpid()))

    @classmethod
    def shared(cls) -> "WorkerFiles | None":
        """Return the files of this process; None if it shares its metrics with no others."""
        return cls(Path(os.environ[_DIRECTORY])) if _DIRECTORY in os.environ else None

    def forget_dead_workers(self) -> None:
        """Forget the workers that have ended, where no supervisor of ours does it: where workers are known by process ids."""
        if not self._is_supervised:
            for path in self._directory.glob("process_*.pid"):
                worker = int(path.stem.removeprefix("process_"))
                if not Path(f"/proc/{worker}").exists():
                    forget_worker(worker, self._directory)

    def collect(self) -> Iterable[Metric]:
        """Return what the process of each worker uses, labelled with the worker: of one worker at a time, the CPU time would
        seem to go back."""
        families: dict[str, Metric] = {}
        for path in sorted(self._directory.glob("process_*.pid")):
            with suppress(FileNotFoundError, ValueError):  # it begins or ends just now
                worker = path.stem.removeprefix("process_")
                for family in ProcessCollector(pid=partial(int, path.read_text()), registry=None).collect():
                    found = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                    found.samples += [sample._replace(labels={"worker": worker}) for sample in family.samples]
        return families.values()

    def write_usage(self, usage: Mapping[str, RedisUsage]) -> None:
        """Show the others what this worker has seen of Redis, by server; nothing if it has seen nothing."""
        path = _usage_file(self._directory, self._worker)
        if not usage:
            path.unlink(missing_ok=True)
            return
        written = path.with_suffix(".new")
        seen = {
            server: _SeenUsage(each.memory_used, each.memory_max, each.connected_clients, each.evicted_keys)
            for server, each in usage.items()
        }
        written.write_bytes(msgspec.json.encode(seen))
        written.replace(path)

    def latest_usage(self) -> Mapping[str, RedisUsage]:
        """Return the latest look at Redis of all workers: of several looks, a counter would seem to go back."""
        found: list[tuple[int, Path]] = []
        for path in self._directory.glob("redis_*.json"):
            with suppress(FileNotFoundError):
                found.append((path.stat().st_mtime_ns, path))
        for _, path in sorted(found, reverse=True):
            with suppress(FileNotFoundError):
                return _decode_usage(path.read_bytes())
        return {}
