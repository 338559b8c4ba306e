"""The cost of the integrations for the code that they report on.

    python clients/python/benchmarks/integrations.py [redis URL] [--seconds 3]

The first table is the time that a call takes in the caller's thread, while the sender's thread sends. Below it stands the CPU
time of a worker whose task reports 1,000 times a second, less that of the same worker without reports.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from functools import partial
from uuid import uuid4

from relay_client import current_task
from relay_client.integrations.job import Job
from relay_client.integrations.job_reporter import JobReporter

#: Reports a second of the worker of the second table.
CALLS = 1000
_TICKS = 100

#: Seconds between two calls of the first table: the sender's thread gets its turn, as in a worker.
_PAUSE = 0.0005


def job(number: int) -> Job:
    """Return a job of the benchmark's own."""
    return Job(f"benchmark-{uuid4().hex[:8]}-{number}", "benchmarks.render", queue="default", worker="benchmark")


def timed(call: Callable[[], object]) -> float:
    """Return the microseconds that a call takes."""
    began = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - began) / 1000


def calls(jobs: JobReporter, count: int) -> dict[str, list[float]]:
    """Return the microseconds of each kind of report, for so many jobs one after the other."""
    times: dict[str, list[float]] = {name: [] for name in ("waits", "begins", "progress", "has ended", "outside")}
    for number in range(count):
        each = job(number)
        times["waits"].append(timed(partial(jobs.enqueued, each)))
        time.sleep(_PAUSE)
        times["begins"].append(timed(partial(jobs.started, each, watched=False)))
        time.sleep(_PAUSE)
        times["progress"].append(timed(report))
        time.sleep(_PAUSE)
        times["has ended"].append(timed(partial(jobs.succeeded, each.id)))
        jobs.leave()
        times["outside"].append(timed(report))
        time.sleep(_PAUSE)
    return times


def report() -> None:
    """Report as a task does."""
    current_task().progress(40, "Rendering", stage="image")


def share(jobs: JobReporter, seconds: float, rate: int) -> float:
    """Return the CPU seconds per second of a worker whose task reports so often."""
    each = job(0)
    jobs.started(each, watched=False)
    began, began_cpu = time.perf_counter(), time.process_time()
    for tick in range(1, int(seconds * _TICKS) + 1):
        for number in range(rate // _TICKS):
            current_task().progress(number, "Rendering", stage="image")
        time.sleep(max(0.0, began + tick / _TICKS - time.perf_counter()))
    used = (time.process_time() - began_cpu) / (time.perf_counter() - began)
    jobs.succeeded(each.id)
    jobs.leave()
    return used


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("redis_url", nargs="?", help="default: REDIS_URL, REDIS_HOST, ...")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run of the worker")
    parser.add_argument("--jobs", type=int, default=500, help="of the first table")
    options = parser.parse_args()
    jobs = JobReporter({"publisher": options.redis_url} if options.redis_url else {})
    calls(jobs, 20)  # imports, connections
    gc.collect()
    print("| report | median, us | p99, us |\n|---|---|---|")
    for name, times in calls(jobs, options.jobs).items():
        print(f"| {name} | {statistics.median(times):.1f} | {statistics.quantiles(times, n=100)[98]:.1f} |")
    idle, silent, reporting = (share(jobs, options.seconds, rate) for rate in (0, 0, CALLS))
    print(
        f"\n{CALLS} reports a second cost {100 * (reporting - silent):.2f} % of a core; the loop takes {100 * idle:.2f} %"
    )
    jobs.flush()


if __name__ == "__main__":
    main()
