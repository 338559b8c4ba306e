"""Forked children that each report a task: `python -m tests.integration.client.integrations.forks 1000`.

The parent reports as well, so that every child inherits a running thread and a connection that are not its own. The children
end in the three ways in which a forked child ends in order.
"""

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from relay_client.progress.background import BackgroundReporter
from relay_client.progress.background_task import Opening

from tests.harness import RedisServer
from tests.integration.client.reading import state_of

#: Children that live at the same time.
WAVE = 20

#: Seconds after which a child is said to hang.
LONGEST = 60.0


def work(reporter: BackgroundReporter, number: int) -> None:
    """Report the whole life of one task."""
    announcement = {"status": "pending", "title": f"Child {number}"}
    task = reporter.begin(
        f"child-{number}", {"status": "in_progress"}, Opening("attempt:1", announcement, {"attempt": 1})
    )
    assert task is not None
    task.progress(50, "Half of it")
    reporter.release(task, {"status": "completed", "progress": 100})


def fork(reporter: BackgroundReporter, number: int, *, flushes: bool) -> int:
    """Fork a child that works, and return its id; flushes: it sends all by itself and ends without its exit handlers."""
    pid = os.fork()
    if pid:
        return pid
    work(reporter, number)
    if flushes:
        reporter.flush(LONGEST)
        os._exit(0)
    sys.exit()


def run_wave(reporter: BackgroundReporter, numbers: range, wave: int) -> None:
    """Fork children that live at the same time, and wait for them."""
    if wave % 3 == 0:
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=work, args=(reporter, number)) for number in numbers]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
            process.close()
        return
    for child in [fork(reporter, number, flushes=wave % 3 == 1) for number in numbers]:
        assert os.waitpid(child, 0)[1] == 0


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def parent(url: str, count: int) -> None:
    """Fork the children, in a process that has nothing which a child would end with itself."""
    reporter = BackgroundReporter(url)
    reporter.begin("parent", {"status": "in_progress"})
    assert reporter.flush(LONGEST)
    before, pid, slowest = descriptors(), os.getpid(), 0.0
    for wave in range(-(-count // WAVE)):
        began = time.monotonic()
        run_wave(reporter, range(wave * WAVE, min((wave + 1) * WAVE, count)), wave)
        slowest = max(slowest, time.monotonic() - began)
    assert os.getpid() == pid
    print(f"{descriptors() - before} descriptors more; slowest wave of {WAVE}: {slowest:.1f} s", flush=True)
    assert descriptors() == before
    assert slowest < LONGEST


def main(count: int) -> None:
    with TemporaryDirectory() as directory, RedisServer(Path(directory), "--save", "") as redis:
        subprocess.run([sys.executable, "-m", __spec__.name, redis.url, str(count)], check=True)
        lost = [number for number in range(count) if state_of(redis, f"child-{number}").get("status") != "completed"]
    print(f"{count} children, {len(lost)} ends lost")
    assert not lost, lost


if __name__ == "__main__":
    if len(sys.argv) == 3:
        parent(sys.argv[1], int(sys.argv[2]))
    else:
        main(int(sys.argv[1]))
