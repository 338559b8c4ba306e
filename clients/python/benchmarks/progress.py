"""The cost for a worker of reporting its progress 10,000 times a second.

    python clients/python/benchmarks/progress.py [redis URL] [--seconds 3]

Three runs of the same loop, which sleeps between its ticks: one that reports nothing; one that reports as often as is sent (10
times a second), whose cost is the sends'; and one that reports 10,000 times a second. The difference of the last two is what
reporting itself costs, in CPU time of the whole process.
"""

import argparse
import time
from uuid import uuid4

from relay_client import TaskReporter

RATE = 10.0
CALLS = 10_000
_TICKS = 100


def run(redis_url: str | None, seconds: float, calls: float) -> float:
    """Return the CPU seconds of this process per second, with so many reports per second."""
    each_tick = calls / _TICKS
    with TaskReporter(redis_url, rate=RATE) as reporter, reporter(f"benchmark-{uuid4().hex[:8]}") as task:
        due = 0.0
        number = 0
        started, started_cpu = time.perf_counter(), time.process_time()
        for tick in range(1, int(seconds * _TICKS) + 1):
            due += each_tick
            while due >= 1.0:
                due -= 1.0
                number += 1
                task.progress(number % 100, "Rendering", stage="image_started")
            time.sleep(max(0.0, started + tick / _TICKS - time.perf_counter()))
        return (time.process_time() - started_cpu) / (time.perf_counter() - started)


def measure(redis_url: str | None, seconds: float) -> dict[str, float]:
    """Return the percentage of a core for the loop, for sending, and for reporting itself."""
    run(redis_url, 0.2, CALLS)  # imports, connections
    idle, sends, reporting = (run(redis_url, seconds, calls) for calls in (0.0, RATE, CALLS))
    return {
        "loop": 100 * idle,
        "sends": 100 * (sends - idle),
        "reporting": 100 * (reporting - sends),
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("redis_url", nargs="?", help="default: REDIS_URL, REDIS_HOST, ...")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run")
    options = parser.parse_args()
    percent = measure(options.redis_url, options.seconds)
    print(
        f"{CALLS} reports/s cost {percent['reporting']:.2f} % of a core ({percent['reporting'] / CALLS * 1e4:.2f} us each);"
    )
    print(f"{RATE:g} sends/s {percent['sends']:.2f} %; the loop around them {percent['loop']:.2f} %")


if __name__ == "__main__":
    main()
