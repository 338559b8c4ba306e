"""Pictures of the relay's page at work, taken of the demonstration with the system's Chromium.

python docs/screenshots.py                    docs/page.png, the picture of the README
python docs/screenshots.py --celery           docs/integrations.png: a Celery worker's tasks, of the example with pictures
python docs/screenshots.py --all DIRECTORY    each state at three widths, light and dark, to look at
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from playwright.sync_api import Error as PlaywrightError
from relay_jobs.examples.processes import free_port

ROOT = Path(__file__).parent.parent

#: Seconds for the demonstration to have tasks in every state.
_TIMEOUT = 120

#: The example with Celery; and the pictures that it draws: subject, lines, whether the ink runs out.
_PICTURES = ROOT / "clients" / "python" / "examples" / "pictures" / "run.py"
_SUBJECTS = (
    ("a+lighthouse", 5, 0),
    ("a+comet", 20, 1),
    ("an+owl", 300, 0),
    ("a+teapot", 300, 0),
    ("a+harbour", 300, 0),
)

_WIDTHS = ((1440, 900), (900, 1100), (390, 844))
_SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


@contextmanager
def _program(module: str, *arguments: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REDIS_"))}
    command = [sys.executable, "-m", module, *arguments]
    environ["RELAY_PORT"] = str(port)
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield child
        finally:
            child.terminate()
            child.wait(_TIMEOUT)


@contextmanager
def _page(browser: Browser, url: str, size: tuple[int, int], scheme: Literal["light", "dark"]) -> Iterator[Page]:
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    deadline = time.monotonic() + _TIMEOUT
    while True:
        try:
            page.goto(url)
            break
        except PlaywrightError:  # the relay is not up yet
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    yield page
    context.close()


def _save(page: Page, path: Path) -> None:
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement?.blur()")
    page.screenshot(path=path)
    with Image.open(path) as image:
        image.convert("RGB").save(path, optimize=True)


def _until_lively(page: Page) -> None:
    """Wait until tasks run, have completed, failed and stalled."""
    for name in ("In progress", "Completed", "Failed", "Stalled"):
        expect(page.locator(".chip:not([data-empty])", has_text=name)).to_be_visible()


def _open_backup(page: Page) -> None:
    page.locator("#search").fill("nightly")
    page.locator("#rows > .row:not([hidden]) a").first.click()
    if page.locator("#search").is_visible():  # a phone has no room for it beside a task
        page.locator("#search").fill("")
    expect(page.locator("#children li")).to_have_count(3)


def take_one(browser: Browser, target: Path) -> None:
    """Take the picture of the README."""
    port = free_port(0)
    with _program("relay_jobs.examples.demo", "--plain", port=port):  # noqa: SIM117
        with _page(browser, f"http://127.0.0.1:{port}/", (1440, 810), "light") as page:
            _until_lively(page)
            _open_backup(page)
            page.wait_for_timeout(500)
            _save(page, target)


def take_celery(browser: Browser, target: Path) -> None:
    """Take the picture of the integrations: what a Celery worker does, as the relay's page shows it."""
    port, relay_port = free_port(0), free_port(0)
    command = [sys.executable, str(_PICTURES), "--port", str(port), "--relay-port", str(relay_port)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REDIS_"))}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as example:
        try:
            assert example.stdout is not None
            if "The page" not in example.stdout.readline():
                raise RuntimeError("the example did not start")
            for subject, lines, trouble in _SUBJECTS:
                asked = f"http://127.0.0.1:{port}/pictures?subject={subject}&lines={lines}&trouble={trouble}"
                urllib.request.urlopen(urllib.request.Request(asked, method="POST"), timeout=_TIMEOUT).close()
            with _page(browser, f"http://127.0.0.1:{relay_port}/", (1440, 620), "light") as page:
                for name in ("Completed", "In progress", "Waiting"):
                    expect(page.locator(".chip:not([data-empty])", has_text=name)).to_be_visible()
                page.locator("#rows > .row:not([hidden]) a", has_text=_SUBJECTS[-3][0].replace("+", " ")).click()
                expect(page.get_by_text("Line ").first).to_be_visible()
                page.wait_for_timeout(1000)
                _save(page, target)
        finally:
            example.terminate()


def take_all(browser: Browser, directory: Path) -> None:
    """Take each state at each width."""
    port = free_port(0)
    url = f"http://127.0.0.1:{port}/"

    def each(name: str, show: str = "") -> Iterator[Page]:
        for size in _WIDTHS:
            for scheme in _SCHEMES:
                with _page(browser, url + show, size, scheme) as page:
                    yield page
                    page.wait_for_timeout(300)
                    _save(page, directory / f"{name}-{size[0]}-{scheme}.png")

    with _program("relay_jobs.examples.demo", "--plain", port=port) as demo:
        with _page(browser, url, (1280, 760), "light") as page:
            _until_lively(page)
        for page in each("list"):
            expect(page.locator("#rows > .row:not([hidden])").first).to_be_visible()
        for page in each("task"):
            _open_backup(page)
        for page in each("failed", "?show=failed"):
            page.locator("#rows > .row:not([hidden]) a").first.click()
            expect(page.locator("#error")).to_be_visible()
        with _page(browser, url, _WIDTHS[0], "light") as wide, _page(browser, url, _WIDTHS[2], "dark") as phone:
            for page in (wide, phone):
                expect(page.locator("#rows > .row:not([hidden])").first).to_be_visible()
            demo.terminate()
            for page, name in ((wide, "disconnected-1440-light"), (phone, "disconnected-390-dark")):
                expect(page.locator("#connection")).to_contain_text("reconnecting in")
                _save(page, directory / f"{name}.png")
    with _program("relay.cli", "serve", port=port):
        for page in each("empty"):
            expect(page.get_by_text("No tasks yet")).to_be_visible()


def main() -> None:
    """Take pictures."""
    parser = argparse.ArgumentParser(description="Pictures of the relay's page.")
    parser.add_argument("--all", type=Path, metavar="DIRECTORY", help="each state at three widths, light and dark")
    parser.add_argument("--celery", action="store_true", help="docs/integrations.png")
    options = parser.parse_args()
    program = shutil.which("chromium")
    if program is None:
        parser.error("this needs chromium")
    expect.set_options(timeout=_TIMEOUT * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        if options.celery:
            take_celery(browser, ROOT / "docs" / "integrations.png")
        elif options.all is None:
            take_one(browser, ROOT / "docs" / "page.png")
        else:
            options.all.mkdir(parents=True, exist_ok=True)
            take_all(browser, options.all)
        browser.close()


if __name__ == "__main__":
    main()
