"""A worker that reports on its jobs as an integration does, and measures what that costs it.

    the time of each call   in the thread that makes it, while the sender's thread sends
    the share of a core     of a worker whose job reports often, less that of the same worker without reports

Between two calls it sleeps: as in a worker, the sender's thread gets its turn, and caches are cold.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from uuid import uuid4

from relay_client import current_task
from relay_client.integrations.job import Job
from relay_client.integrations.job_reporter import JobReporter

from benchmarks.machine import cpu_of

#: Seconds between two calls whose time is measured.
_PAUSE = 0.0005

#: How often in a second the worker with many reports wakes up for its share of them.
_TICKS = 100

#: Jobs before the first that counts: imports, connections.
_WARM_UP = 20

#: Seconds within which all must have arrived.
_FLUSH_TIMEOUT = 60.0


def _job(number: int) -> Job:
    return Job(f"benchmark-{uuid4().hex[:8]}-{number}", "benchmarks.render", queue="default", worker="benchmark")


def _report() -> None:
    """Report as a job does."""
    current_task().progress(40, "Rendering", stage="image")


def _life(jobs: JobReporter, number: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield each report on a job, to be made before the next one is asked for, by the name that tables have for it."""
    job = _job(number)
    yield "waits", partial(jobs.enqueued, job)
    yield "begins", partial(jobs.started, job)
    yield "progress", _report
    yield "ends", partial(jobs.succeeded, job.id)
    jobs.leave()
    yield "outside of any job", _report


def _times(jobs: JobReporter, count: int) -> dict[str, list[int]]:
    """Return the nanoseconds of each report, for so many jobs one after the other."""
    times: dict[str, list[int]] = {}
    for number in range(count):
        for name, call in _life(jobs, number):
            began = time.perf_counter_ns()
            call()
            times.setdefault(name, []).append(time.perf_counter_ns() - began)
            time.sleep(_PAUSE)
    return times


def _used(jobs: JobReporter, seconds: float, rate: int) -> float:
    """Return the CPU seconds for each second of a worker whose job reports so often."""
    job = _job(0)
    jobs.started(job, watched=False)
    began, started_cpu = time.perf_counter(), time.process_time()
    for tick in range(1, int(seconds * _TICKS) + 1):
        for number in range(rate // _TICKS):
            current_task().progress(number, "Rendering", stage="image")
        time.sleep(max(0.0, began + tick / _TICKS - time.perf_counter()))
    used = (time.process_time() - started_cpu) / (time.perf_counter() - began)
    jobs.succeeded(job.id)
    jobs.leave()
    return used


def main(redis_url: str, count: int, rate: int, seconds: float) -> None:
    """Measure, and print the result as JSON.

    Args:
        redis_url: The Redis to report to.
        count: Jobs whose reports are measured one by one.
        rate: Reports a second of the worker whose share of a core is measured; a multiple of 100.
        seconds: For which that is measured.
    """
    jobs = JobReporter({"publisher": redis_url})
    _times(jobs, _WARM_UP)
    gc.collect()
    gc.freeze()
    began, cpu = time.perf_counter(), cpu_of([os.getpid()])
    times = _times(jobs, count)
    waited = cpu_of([os.getpid()]).since(cpu).waited / (time.perf_counter() - began)
    # In turns: the machine is not equally fast all the time.
    shares = [_used(jobs, seconds / 4, rate) - _used(jobs, seconds / 4, 0) for _ in range(4)]
    arrived = jobs.reporter.flush(_FLUSH_TIMEOUT)
    is_complete = arrived and not jobs.reporter.dropped and not jobs.reporter.lost
    print(json.dumps({"times": times, "waited": waited, "share": median(shares), "is_complete": is_complete}))


if __name__ == "__main__":
    url, *numbers = sys.argv[1:]
    main(url, int(numbers[0]), int(numbers[1]), float(numbers[2]))
