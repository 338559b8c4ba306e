"""A headless Chromium."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relay.processes import start_child
from tests.harness import PATIENCE


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
