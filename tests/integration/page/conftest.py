"""A Chromium for all tests of the page, the elements and the client in a browser."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.harness import PATIENCE, RelayServer

expect.set_options(timeout=PATIENCE * 1000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    program = shutil.which("chromium")
    assert program is not None, "this test needs Debian's chromium package"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield started
        started.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A fresh profile. Tests name it after `share_relay`, which waits until its clients are gone.

    What the console says of errors fails the test, but for requests that cannot succeed.
    """
    complaints: list[str] = []

    def note(message: Any) -> None:
        if (
            message.type == "error"
            and "Failed to load resource" not in message.text
            and "WebSocket" not in message.text
        ):
            complaints.append(message.text)

    fresh = browser.new_context(reduced_motion="reduce")
    fresh.set_default_timeout(PATIENCE * 1000)
    fresh.on("console", note)
    fresh.on("weberror", lambda error: complaints.append(str(error.error)))
    yield fresh
    fresh.close()
    assert complaints == []


def address(relay: RelayServer, path: str = "/") -> str:
    return f"http://127.0.0.1:{relay.port}{path}"


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()
