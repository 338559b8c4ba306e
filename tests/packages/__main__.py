"""Install dist/ into an empty folder, for the oldest and the newest Python that is here, and use all of it there."""

import argparse
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from relay.processes import start_child
from tests.harness import PATIENCE, ROOT, eventually, stop
from tests.ports import free_port

#: Seconds for pip and npm, which ask their registries for what our packages depend on.
INSTALL = 600

#: What a browser's and a server's author have: Node's client follows a task to its end.
FOLLOW = """
import { RelayClient } from "@trio-relay/client";
import WebSocket from "ws"; // Node before version 22 has none
const client = new RelayClient(process.argv[2], { WebSocket });
const seen = [];
await new Promise((resolve) => client.task("from-python").onUpdate(({ state }) => {
  seen.push(state.progress);
  if (state.status === "completed") resolve();
}));
client.close();
console.log(JSON.stringify(seen));
"""

REPORT = """
import sys
from relay_client.http import Publisher
with Publisher(sys.argv[1]) as publisher:
    for progress in (10, 50, 100):
        publisher.publish_task_update("from-python", {"status": "in_progress", "progress": progress})
    publisher.publish_task_update("from-python", {"status": "completed"})
"""


def pythons() -> list[str]:
    """The oldest and the newest Python that Relay supports and that is here."""
    found: dict[tuple[int, int], str] = {}
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in range(11, 20):
        candidates = [shutil.which(f"python3.{minor}"), *map(str, versions.glob(f"3.{minor}.*/bin/python"))]
        for candidate in filter(None, candidates):
            probe = "import ensurepip, venv, sys; print(*sys.version_info[:2])"
            run = subprocess.run([candidate, "-c", probe], capture_output=True, text=True, timeout=PATIENCE)
            if run.stdout.split() == ["3", str(minor)]:
                found.setdefault((3, minor), candidate)
    return [found[min(found)], found[max(found)]]


@contextmanager
def running(command: list[str], folder: Path, environ: dict[str, str]) -> Iterator[Path]:
    """A process that is ended as Ctrl-C does; its output's file."""
    log = folder / "relay.log"
    with log.open("wb") as output:
        child = start_child(command, env=environ, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        try:
            yield log
        except AssertionError as error:
            error.add_note(f"{command[0]} printed:\n{log.read_text(errors='replace')}")
            raise
        assert child.poll() is None, log.read_text()
    finally:
        stop(child)


def use(python: str, folder: Path, packages: Path) -> None:
    """Follow the README of a stranger who has nothing but the files. Raises AssertionError."""
    environ = {"PATH": os.defpath, "HOME": str(folder), "TMPDIR": str(folder)}
    environ |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "npm_config_", "SSL_"))}

    def run(*command: str | Path, **more: str) -> str:
        done = subprocess.run(
            [*map(str, command)], cwd=folder, env=environ | more, capture_output=True, text=True, timeout=INSTALL
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    subprocess.run([python, "-m", "venv", folder / "venv"], check=True, timeout=PATIENCE)
    commands = folder / "venv" / "bin"
    started = time.monotonic()
    # The two commands.
    run(commands / "pip", "install", "--quiet", "--find-links", packages, "trio-relay[demo]")
    installed = time.monotonic()
    port = free_port()
    with running([str(commands / "relay"), "demo"], folder, environ | {"RELAY_PORT": str(port)}) as log:
        eventually(lambda: re.search(r"open http://127\.0\.0\.1:\d+/", log.read_text()))
        found = re.search(r"open (http://127\.0\.0\.1:\d+)/", log.read_text())
        assert found is not None
        watch_in_chromium(found[1], folder / "page.png")
        seen = time.monotonic()
        status = json.loads(run(commands / "relay", "status", "--json", RELAY_URL=found[1]))
        assert [relay["status"] for relay in status["relays"]] == ["ready"], status
        follow_in_node(found[1], folder, packages, commands, run)
    places = run(commands / "python", "-c", "import relay, relay_client; print(relay.__file__, relay_client.__file__)")
    assert all(Path(place).is_relative_to(folder) for place in places.split()), places
    version = run(commands / "python", "-V").strip()
    print(f"{version}: installed in {installed - started:.0f} s, a live bar {seen - installed:.1f} s later")


def watch_in_chromium(url: str, picture: Path) -> None:
    """See a bar of the page move."""
    with sync_playwright() as playwright:
        program = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page()
        page.goto(url, timeout=PATIENCE * 1000)
        bar = page.locator("#rows > .row:not([hidden])", has_text="%").first
        expect(bar).to_be_visible(timeout=PATIENCE * 1000)
        before = bar.inner_text()
        eventually(lambda: page.locator("#rows").inner_text() != before)
        moving = re.compile(r"(\d+) %")
        shown = set(moving.findall(page.locator("#rows").inner_text()))
        eventually(lambda: len(shown | set(moving.findall(page.locator("#rows").inner_text()))) > len(shown))
        page.screenshot(path=picture)
        browser.close()


def follow_in_node(url: str, folder: Path, packages: Path, commands: Path, run: Callable[..., str]) -> None:
    """Follow a task with the npm package, which a program with the Python package reports over HTTP."""
    (tarball,) = packages.glob("*.tgz")
    (folder / "package.json").write_text('{"type": "module", "private": true}')
    run("npm", "install", "--silent", "--no-audit", "--no-fund", tarball, "ws@8")
    (folder / "follow.js").write_text(FOLLOW)
    (folder / "report.py").write_text(REPORT)
    run(commands / "python", "report.py", url)
    seen = json.loads(run("node", "follow.js", f"{url}/ws/tasks"))
    assert seen[-1] == 100, seen


def main() -> None:
    """Run the trial."""
    parser = argparse.ArgumentParser(prog="python -m tests.packages", description=__doc__)
    parser.add_argument("pythons", nargs="*", help="default: the oldest and the newest that is here")
    parser.add_argument("--pictures", type=Path, help="keep a picture of each page in this folder")
    options = parser.parse_args()
    for python in options.pythons or pythons():
        with tempfile.TemporaryDirectory(prefix="relay-packages-") as name:
            folder = Path(name)
            packages = Path(shutil.copytree(ROOT / "dist", folder / "dist"))
            use(python, folder, packages)
            if options.pictures:
                version = Path(python).resolve().name
                shutil.copyfile(folder / "page.png", options.pictures / f"{version}.png")
    print("all of it works")


if __name__ == "__main__":
    main()
