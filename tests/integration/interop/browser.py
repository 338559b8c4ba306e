"""A headless Chromium, and a server for the page that it shows."""

import queue
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec

from relay.processes import start_child
from tests.harness import PATIENCE

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

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(page.read_bytes() if self.path.startswith("/?") else b"")

        def do_POST(self) -> None:
            reports.put(msgspec.json.decode(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            # A browser's first start, on a busy machine, takes its time.
            yield f"http://127.0.0.1:{server.server_port}/", partial(reports.get, timeout=PATIENCE)
        finally:
            server.shutdown()
            thread.join()
