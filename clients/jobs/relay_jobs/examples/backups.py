"""Backups: tasks without a worker of this package, as any service may publish them. Each has children, one of which stalls.

A service that only publishes sends no heartbeats: when it hangs, nobody reports on its task, and the relay says it stalled.
"""

import math
from collections.abc import Iterator
from itertools import count

from relay_client import Publisher
from relay_client.progress.values import utc_now_iso

#: What is backed up, and how many percent of it in a second.
_DATABASES = (("orders", 8.0), ("customers", 14.0), ("images", 5.0))

#: The child that hangs: at which percentage, and for how many seconds.
_HANGS, _HANGS_AT, _HANGS_FOR = "images", 45.0, 14.0

#: Seconds between two updates of a child, and between two backups.
_INTERVAL, _PAUSE = 0.5, 12.0

_STAGES = ((0, "snapshot"), (15, "compress"), (75, "upload"), (95, "verify"))


class Backups:
    """One backup after the other; `advance` is called often, and publishes what is due.

    Args:
        publisher: Publishes without waiting.
        now: The monotonic time, in seconds.
    """

    def __init__(self, publisher: Publisher, now: float) -> None:
        self._publisher = publisher
        self._due = now
        self._steps = self._run()

    def advance(self, now: float) -> None:
        """Publish what is due.

        Raises:
            BufferFull: Redis has been away for long.
        """
        if now >= self._due:
            self._due = now + next(self._steps)

    def _run(self) -> Iterator[float]:
        """Publish step by step; yields the seconds until the next one."""
        for number in count(1):
            parent = f"backup-{number}"
            post = self._publisher.post_task_update
            started = {
                "kind": "backup",
                "status": "in_progress",
                "created_at": utc_now_iso(),
                "started_at": utc_now_iso(),
            }
            post(parent, started | {"title": "Nightly backup", "progress": 0, "worker": "cron"})
            for name, _ in _DATABASES:
                child = started | {"title": f"Back up {name}", "progress": 0, "worker": "cron"}
                post(f"{parent}-{name}", child, parent_id=parent)
            yield _INTERVAL
            yield from self._progress(parent)
            post(
                parent,
                {"status": "completed", "progress": 100, "message": "All is safe", "completed_at": utc_now_iso()},
            )
            yield _PAUSE

    def _progress(self, parent: str) -> Iterator[float]:
        percent = {name: 0.0 for name, _ in _DATABASES}
        hangs = math.ceil(_HANGS_FOR / _INTERVAL)
        while any(each < 100 for each in percent.values()):
            for name, pace in _DATABASES:
                if percent[name] >= 100:
                    continue
                if name == _HANGS and percent[name] >= _HANGS_AT and hangs > 0:
                    hangs -= 1  # and says nothing
                    continue
                percent[name] = min(100.0, percent[name] + pace * _INTERVAL)
                self._publisher.post_task_update(f"{parent}-{name}", _update(name, percent[name]))
            whole = sum(percent.values()) / len(percent)
            done = sum(each >= 100 for each in percent.values())
            message = f"{done} of {len(percent)} databases"
            self._publisher.post_task_update(parent, {"progress": round(whole, 1), "message": message})
            yield _INTERVAL


def _update(name: str, percent: float) -> dict[str, object]:
    stage = next(stage for start, stage in reversed(_STAGES) if percent >= start)
    if percent >= 100:
        return {"status": "completed", "progress": 100, "stage": stage, "completed_at": utc_now_iso()}
    return {"progress": round(percent, 1), "stage": stage, "message": f"{stage.capitalize()} {name}"}
