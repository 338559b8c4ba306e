"""The example of a text that grows: reloaded in mid-stream it goes on where it was, and Stop stops the worker."""

import json
import os
import re
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from relay.processes import start_child
from tests.harness import Server, eventually
from tests.ports import free_port


class Example(Server):
    """The example with all that it starts, by its one command."""

    name = "example"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REDIS_"))}
        self.port = free_port()
        with self.log.open("ab") as log:
            self._child = start_child(
                [sys.executable, "-m", "relay_jobs.examples.answer", "--port", str(self.port), "--pause", "0.02"],
                env=inherited | {"RELAY_PORT": str(free_port()), "TMPDIR": str(directory)},
                cwd=directory,
                stdout=log,
                stderr=log,
            )
        eventually(lambda: "open http" in self.logged() or self.child.poll() is not None)
        assert self.child.poll() is None, self.logged()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def running(self) -> list[str]:
        with urllib.request.urlopen(f"{self.url}answers", timeout=10) as answer:
            running: list[str] = json.load(answer)["running"]
            return running


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    directory = tmp_path_factory.mktemp("answer")
    with Example(directory) as started:
        yield started


def whole(question: str) -> str:
    return f"You asked: {question}\n" + ",".join(f" word {number}" for number in range(1, 201)) + "."


def test_a_reloaded_page_goes_on_where_it_was(example: Example, page: Page) -> None:
    page.goto(example.url)
    page.get_by_label("Question").fill("why?")
    page.get_by_role("button", name="Ask").click()
    text, status = page.locator("#text"), page.locator("#status")
    expect(text).to_contain_text("word 5,")
    page.reload()
    shown = text.text_content() or ""
    assert re.match(r"You asked: why\?\n word 1, word 2,", shown), "what was there is there at once"
    assert example.running(), "it was in mid-stream"
    expect(status).to_have_text("completed")
    assert text.text_content() == whole("why?")
    expect(page.get_by_role("button", name="Stop")).to_be_disabled()


def test_stop_stops_the_worker(example: Example, page: Page) -> None:
    page.goto(example.url)
    page.get_by_label("Question").fill("how?")
    page.get_by_role("button", name="Ask").click()
    text = page.locator("#text")
    expect(text).to_contain_text("word 5,")
    assert len(example.running()) == 1
    page.reload()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#status")).to_have_text("cancelled")
    assert eventually(lambda: example.running() == []), "the worker writes no more"
    stopped = text.text_content() or ""
    assert whole("how?").startswith(stopped)
    assert len(stopped) < len(whole("how?"))
