"""The tutorial, followed to the letter: its files are written, its commands run in three terminals, and its button clicked.

What is not done is the installation, which asks a package index. Ports are others, so that tests can run side by side.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from relay.processes import start_child
from tests.harness import PATIENCE, ROOT, eventually, stop
from tests.ports import free_port

PAGE = (ROOT / "docs" / "tutorial.md").read_text()

#: The files that the reader is asked to write, by name.
FILES = dict(re.findall(r"^`([\w.]+)`[^\n]*:\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))

#: The console blocks: one for each terminal, after the one that installs.
INSTALL, *TERMINALS = (
    [line.removeprefix("$ ") for line in block.splitlines()]
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
)


def with_ports(ports: dict[str, int]) -> Callable[[str], str]:
    def replace(text: str) -> str:
        return re.sub(r"\b(5000|8000)\b", lambda found: str(ports[found[1]]), text)

    return replace


@contextmanager
def terminal(folder: Path, commands: list[str], name: str, environ: dict[str, str]) -> Iterator[Path]:
    """Type the commands into a shell; the file of what it shows. Ctrl-C at the end, as a reader does."""
    log = folder.parent / f"{name}.log"
    with log.open("wb") as output:
        shell = ["bash", "-c", " && ".join([*commands[:-1], re.sub(r"^((?:\w+=\S+ )*)", r"\1exec ", commands[-1])])]
        shell[2] = re.sub(r"((?:\w+=\S+ )+)exec ", r"exec env \1", shell[2])
        child = start_child(shell, env=environ, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield log
        assert child.poll() is None
    except BaseException:
        print(f"--- {name}\n{log.read_text()[-4000:]}", file=sys.stderr)
        raise
    finally:
        stop(child)


def test_what_is_installed_are_packages_of_this_repository() -> None:
    assert INSTALL[:2] == ["python3 -m venv .venv", ". .venv/bin/activate"]
    extras = (ROOT / "pyproject.toml").read_text() + (ROOT / "clients" / "python" / "pyproject.toml").read_text()
    for name, extra in re.findall(r"(trio-relay[\w-]*)\[(\w+)\]", INSTALL[2]):
        assert f'name = "{name}"' in extras
        assert re.search(rf"^{extra} = \[", extras, re.MULTILINE)
    assert len(TERMINALS) == 3


def test_a_reader_who_does_what_it_says_sees_a_live_bar(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / ".venv").symlink_to(sys.prefix)
    ports = {name: free_port() for name in ("5000", "8000")}
    adapted = with_ports(ports)
    environ = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    environ |= {"RELAY_PORT": str(ports["8000"]), "TMPDIR": str(tmp_path)}
    serve, work, web = ([adapted(command) for command in commands] for commands in TERMINALS)
    with ExitStack() as stack:
        relay = stack.enter_context(terminal(folder, serve, "relay", environ))
        eventually(lambda: re.search(r"is up\.", relay.read_text()))
        redis = re.search(r"^ +Redis +(redis://\S+)", relay.read_text(), re.MULTILINE)
        assert redis is not None, relay.read_text()
        for name, text in FILES.items():
            # "If the relay printed another address for its Redis, put that one here."
            (folder / name).write_text(adapted(text).replace("redis://127.0.0.1:6379/0", redis[1]))
        worker = stack.enter_context(terminal(folder, work, "worker", environ))
        stack.enter_context(terminal(folder, web, "web", environ))
        eventually(lambda: "[queues]" in worker.read_text())
        watch(f"http://127.0.0.1:{ports['5000']}/", environ)


def watch(url: str, environ: dict[str, str]) -> None:
    """Click the button twice, and see both bars move and end."""
    program = shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        expect.set_options(timeout=PATIENCE * 1000)
        eventually(lambda: page.request.get(url).ok)
        page.goto(url)
        for _ in range(2):
            page.get_by_role("button").click()
        bars = page.locator("relay-task")
        expect(bars).to_have_count(2)
        expect(bars.first).to_contain_text("Render a lighthouse")
        expect(bars.first).to_contain_text(re.compile(r"[1-9]\d? ?%"))
        for number in (0, 1):
            expect(bars.nth(number)).to_contain_text("completed")
        browser.close()


@pytest.mark.parametrize("name", ["tasks.py", "page.html", "web.py"])
def test_the_files_are_shown_whole(name: str) -> None:
    assert FILES[name].strip()
