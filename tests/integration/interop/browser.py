"""A headless Chromium, and a server for the page that it shows."""

import queue
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from relay.processes import start_child
from tests.harness import PATIENCE
from tests.http_server import RequestHandler, serving

Report = dict[str, Any]


@contextmanager
def chromium(directory: Path, url: str) -> Iterator[None]:
    """Headless Chromium with a fresh profile, showing a page."""
    program = shutil.which("chromium")
    assert program is not None, "this test needs Debian's chromium package"
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        f"--user-data-dir={directory / 'profile'}",
        # Without a debugging port a headless Chromium ends when it has loaded the page.
        "--remote-debugging-port=0",
    ]
    log = directory / "chromium.log"
    with log.open("wb") as output:
        child = start_child([program, *flags, url], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield
    except BaseException:
        print(f"--- log of chromium\n{log.read_text(errors='replace')[-8000:]}")
        raise
    finally:
        child.terminate()
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextmanager
def page_server(page: Path) -> Iterator[tuple[str, Callable[[], Report]]]:
    """An HTTP server for a browser's page: its URL, and a function that waits for the page's next report.

    Args:
        page: The page's file. It posts its reports as JSON to ``/report``.
    """
    reports: queue.Queue[Report] = queue.Queue()

    class Handler(RequestHandler):
        def do_GET(self) -> None:
            self.answer(page.read_bytes() if self.path.startswith("/?") else b"")

        def do_POST(self) -> None:
            reports.put(msgspec.json.decode(self.read_body()))
            self.answer(b"")

    with serving(Handler) as port:
        # A browser's first start, on a busy machine, takes its time.
        yield f"http://127.0.0.1:{port}/", partial(reports.get, timeout=PATIENCE)
