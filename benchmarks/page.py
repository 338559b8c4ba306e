"""The relay's page with 10,000 tasks, of which 1,000 move: frames per second, long tasks of the main thread, memory.

    python -m benchmarks.page [--tasks 10000] [--moving 1000] [--rate 5] [--seconds 20]

One process publishes, a relay serves with its own Redis, and Debian's Chromium shows the page and scrolls through it.
"""

import argparse
import itertools
import multiprocessing
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import redis
from playwright.sync_api import Page, sync_playwright

from tests.harness import RedisServer, RelayServer, eventually

#: Messages in one round trip to Redis.
_BATCH = 500

#: Most plain publishes per second while the tasks are made: the relay stores each of them.
_CREATE_RATE = 2000

#: Seconds between two looks at the heap.
_PART = 60.0

#: Measures in the page: frames, and tasks of the main thread that took longer than 50 ms.
_MEASURE = """() => {
    window.frames_ = [];
    window.longTasks = [];
    new PerformanceObserver((list) => longTasks.push(...list.getEntries().map(({ duration }) => duration)))
        .observe({ entryTypes: ["longtask"] });
    const frame = (now) => { frames_.push(now); requestAnimationFrame(frame); };
    requestAnimationFrame(frame);
}"""

#: Scrolls down and up again, two screens per second.
_SCROLL = """() => {
    const scroller = document.getElementById("scroller");
    let direction = 1;
    const step = () => {
        scroller.scrollTop += direction * 20;
        const { scrollTop, clientHeight, scrollHeight } = scroller;
        if (scrollTop + clientHeight >= scrollHeight - 1 || scrollTop <= 0) direction = -direction;
        requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
}"""


def _message(number: int, fields: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"type": "task_update", "task_id": f"t{number:05}", "data": fields})


def _make(url: str, tasks: int, moving: int) -> None:
    """Make the tasks; the last ones are those that move."""
    client = redis.Redis.from_url(url)
    for start in range(0, tasks, _BATCH):
        with client.pipeline(transaction=False) as batch:
            for number in range(start, min(tasks, start + _BATCH)):
                status = "in_progress" if number >= tasks - moving else ("completed", "failed")[number % 9 == 0]
                fields = {
                    "title": f"Task {number}",
                    "kind": f"kind-{number % 7}",
                    "status": status,
                    "message": "Working",
                }
                batch.publish("task_updates", _message(number, fields | {"progress": 50}))
            batch.execute()
        time.sleep(_BATCH / _CREATE_RATE)


def _move(url: str, tasks: int, moving: int, rate: float) -> None:
    """Move the last tasks, each so often per second, until killed."""
    client = redis.Redis.from_url(url)
    started, sent = time.monotonic(), 0
    while True:
        due = int((time.monotonic() - started) * rate * moving)
        with client.pipeline(transaction=False) as batch:
            for each in range(sent, min(due, sent + _BATCH)):
                fields = {"progress": round(each // moving % 1000 / 10, 1), "message": f"Step {each // moving}"}
                batch.publish("task_updates", _message(tasks - moving + each % moving, fields))
            sent = min(due, sent + _BATCH)
            batch.execute()
        time.sleep(0.01)


def _heap(page: Page) -> float:
    """The page's heap after a garbage collection, in MB."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    return float(session.send("Runtime.getHeapUsage")["usedSize"]) / 1e6


def _report(page: Page, seconds: float) -> None:
    """Measure, in parts of a minute; between them, the heap."""
    page.evaluate(_MEASURE)
    page.evaluate(_SCROLL)
    heaps = [_heap(page)]
    gaps: list[float] = []
    long_tasks: list[float] = []
    parts = max(1, round(seconds / _PART))
    for _ in range(parts):
        page.evaluate("frames_.length = longTasks.length = 0")  # those of the garbage collection
        page.wait_for_timeout(seconds / parts * 1000)
        frames, long = page.evaluate("[frames_, longTasks]")
        gaps += (after - before for before, after in itertools.pairwise(frames))
        long_tasks += long
        heaps.append(_heap(page))
    gaps.sort()
    p99 = gaps[int(len(gaps) * 0.99)]
    print(f"frames per second   {len(gaps) / (sum(gaps) / 1000):.1f}")
    print(f"between two frames  median {statistics.median(gaps):.1f} ms, p99 {p99:.1f} ms, most {gaps[-1]:.1f} ms")
    longest = max(long_tasks, default=0)
    print(f"long tasks          {len(long_tasks)}, longest {longest:.0f} ms, in all {sum(long_tasks):.0f} ms")
    print(f"heap in MB          {', '.join(f'{heap:.1f}' for heap in heaps)}; one part takes {seconds / parts:g} s")


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description="The relay's page with many tasks.")
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--moving", type=int, default=1_000)
    parser.add_argument("--rate", type=float, default=5.0, help="updates of each moving task per second")
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for part in ("redis", "relay"):
            (Path(name) / part).mkdir()
        with (
            RedisServer(Path(name) / "redis", "--save", "") as server,
            RelayServer(Path(name) / "relay", server.url) as relay,
            sync_playwright() as playwright,
        ):
            _make(server.url, options.tasks, options.moving)
            arguments = (server.url, options.tasks, options.moving, options.rate)
            mover = multiprocessing.Process(target=_move, args=arguments, daemon=True)
            mover.start()
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(f"http://127.0.0.1:{relay.port}/")
            size = f'[aria-setsize="{options.tasks}"]'
            eventually(lambda: page.locator(size).count() > 0)
            _report(page, options.seconds)
            mover.kill()
            browser.close()


if __name__ == "__main__":
    main()
