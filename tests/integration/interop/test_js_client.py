"""clients/js: its own tests, and Node and a browser that follow a real relay through a cut."""

import gzip
import re
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import trio

from relay.core.closecodes import Close
from relay.processes import start_child
from tests.faults.proxy import Proxy
from tests.harness import PATIENCE, ROOT, RedisServer, RelayServer
from tests.http_server import RequestHandler, serving
from tests.integration.interop.browser import chromium
from tests.integration.interop.node_packages import CLIENT, compile_client, install_node_packages

STATIC = ROOT / "relay" / "server" / "static"
NODE = ROOT / "tests" / "integration" / "interop" / "node"
PAGE = ROOT / "tests" / "integration" / "interop" / "pages" / "client.html"

Report = dict[str, Any]


@pytest.fixture(scope="session")
def client_tools() -> None:
    """What builds and tests clients/js, as its package-lock.json has it."""
    install_node_packages(CLIENT)


@pytest.fixture(scope="session")
def compiled() -> None:
    """What npm publishes, in dist/."""
    compile_client()


@pytest.mark.usefixtures("compiled")
def test_its_own_tests() -> None:
    """With a relay that is played."""
    # Without `node --test`, which runs each file in a process of its own: nothing would end that after a time-out.
    command = ["node", "--test-reporter=tap", "test/all.js"]
    try:
        done = subprocess.run(command, cwd=CLIENT, check=False, capture_output=True, text=True, timeout=240)
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"it does not end; the end of what it said:\n{(error.stdout or b'')[-8000:].decode()}")
    assert done.returncode == 0, done.stdout[-8000:]
    assert int(re.search(r"^# pass (\d+)$", done.stdout, re.MULTILINE)[1]) >= 36  # type: ignore[index]


@pytest.mark.usefixtures("client_tools")
def test_relays_serve_what_is_built_from_this_checkout(tmp_path: Path) -> None:
    """Otherwise: npm ci && npm run build, in clients/js"""
    subprocess.run(["node", "build.mjs", str(tmp_path)], cwd=CLIENT, check=True, timeout=60)
    built = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {path.name: path.read_bytes() for path in STATIC.iterdir()} == built
    shown = "const { RelayClient, RelayError } = await import(process.argv[1]); console.log(RelayClient.length)"
    command = ["node", "--input-type=module", "-e", shown, str(tmp_path / "relay-client.js")]
    run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert run.stdout.split() == ["1"]


def test_its_sizes_are_those_of_its_readme() -> None:
    """In KB, compressed, as the README says."""
    said = dict(re.findall(r"^\| `([\w.-]+)` \|.*\| ([\d.]+) KB \|$", (CLIENT / "README.md").read_text(), re.MULTILINE))
    sizes = {name: len(gzip.compress((STATIC / name).read_bytes(), mtime=0)) / 1000 for name in said}
    assert said.keys() == {path.name for path in STATIC.glob("relay*.js")}
    assert {name: f"{size:.0f}" for name, size in sizes.items()} == said


def test_final_close_codes_are_those_of_the_registry() -> None:
    [codes] = re.findall(r"FINAL_CLOSE_CODES = new Set\(\[(.*?)\]\)", (CLIENT / "src/core/close_codes.ts").read_text())
    known = {int(code) for code in codes.split(",")}
    # Those from 3000 to 3999 are for Centrifuge's clients.
    final = {close.code for close in Close if not close.reconnect and not 3000 <= close.code < 4000}
    assert final <= known <= {1002, 1003, 1007, 1008, 1009, 4403}


@pytest.fixture(scope="session")
def node_packages() -> None:
    """`ws` and TypeScript, as package-lock.json has them."""
    install_node_packages(NODE)


@pytest.fixture
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RedisServer, RelayServer]]:
    with (
        RedisServer(tmp_path_factory.mktemp("redis"), "--save", "") as redis_server,
        RelayServer(tmp_path_factory.mktemp("relay"), redis_server.url, "serve") as relay,
    ):
        yield redis_server, relay


@asynccontextmanager
async def node(directory: Path, url: str, kind: str) -> AsyncIterator[Callable[[], list[Report]]]:
    """A Node that follows a relay: what it has reported so far. When the block ends its client is closed, and then nothing
    keeps Node alive."""
    flags = ["--experimental-websocket", "--no-warnings"] if kind == "built-in" else []
    log = directory / "node.log"
    with log.open("wb") as output:
        command = ["node", *flags, str(NODE / "client.js"), url, kind]
        child = start_child(command, stdin=subprocess.PIPE, stdout=output, stderr=output)

    def reports() -> list[Report]:
        assert child.poll() is None, log.read_text()
        lines = log.read_bytes().rpartition(b"\n")[0]
        return [msgspec.json.decode(line) for line in lines.splitlines()]

    try:
        yield reports
        assert child.stdin is not None
        child.stdin.close()
        assert await trio.to_thread.run_sync(child.wait, PATIENCE) == 0
        assert msgspec.json.decode(log.read_bytes().splitlines()[-1])["event"] == "positions"
    finally:
        child.kill()
        child.wait()


@asynccontextmanager
async def browser(directory: Path, url: str) -> AsyncIterator[Callable[[], list[Report]]]:
    """Chromium with a page that follows a relay: what it has reported so far."""
    reported: list[Report] = []

    class Handler(RequestHandler):
        def do_GET(self) -> None:
            name = self.path.partition("?")[0].removeprefix("/")
            if name == "":
                self.answer(PAGE.read_bytes())
            elif name == "relay-client.js":
                self.answer((STATIC / name).read_bytes(), "text/javascript")
            else:
                self.answer(b"", "image/x-icon")

        def do_POST(self) -> None:
            reported.extend(msgspec.json.decode(self.read_body()))
            self.answer(b"", "text/plain")

    with serving(Handler) as port, chromium(directory, f"http://127.0.0.1:{port}/?relay={quote(url)}"):
        yield lambda: reported


@pytest.mark.usefixtures("node_packages")
@pytest.mark.parametrize("peer", ["ws", "built-in", "chromium"])
async def test_cut_and_resumed(peer: str, servers: tuple[RedisServer, RelayServer], tmp_path: Path) -> None:
    """Each update once and in order, and the state with it, though the connection is cut in the middle."""
    redis_server, relay = servers
    redis_server.publish_task("t", first="field", n=0)
    async with trio.open_nursery() as nursery:
        proxy = Proxy(relay.port)
        await nursery.start(proxy.run)
        url = f"ws://127.0.0.1:{proxy.port}/ws/tasks"
        async with browser(tmp_path, url) if peer == "chromium" else node(tmp_path, url, peer) as reports:

            async def until(check: Callable[[list[Report]], bool]) -> None:
                with trio.fail_after(PATIENCE):  # a browser's first start, on a busy machine, takes its time
                    while not check(reports()):  # noqa: ASYNC110 - it is another process
                        await trio.sleep(0.02)

            def of(channel: str, all_reports: list[Report]) -> list[Report]:
                return [report for report in all_reports if report.get("channel") == channel]

            # It is asked for last, so that all are followed once its state is there.
            await until(lambda reported: len(of("task:t", reported)) == 1)
            count = 60
            for number in range(1, count + 1):
                redis_server.publish_task("t", n=number)
                redis_server.publish_task("u", n=number)
                redis_server.publish_general(n=number)
                if number == count // 3:
                    nursery.start_soon(proxy.cut, 0.5)
                await trio.sleep(0.01)
            channels = ("task:t", "task:u", "general")
            await until(
                lambda reported: all(
                    of(name, reported) and of(name, reported)[-1]["data"]["n"] == count for name in channels
                )
            )
            reported = reports()
        nursery.cancel_scope.cancel()
    for name in channels:
        updates = of(name, reported)
        if name == "task:t":
            assert updates.pop(0) | {"event": "", "position": {}} == {
                "event": "",
                "type": "task_update",
                "channel": "task:t",
                "taskId": "t",
                "data": {"first": "field", "n": 0},
                "state": {"first": "field", "n": 0},
                "position": {},
                "isState": True,
            }
        assert [update["data"]["n"] for update in updates] == list(range(1, count + 1)), name
        assert not any(update["isState"] for update in updates)
        assert {update["type"] for update in updates} == {"general_update" if name == "general" else "task_update"}
        first = updates[0]["position"]["offset"]
        assert [update["position"]["offset"] for update in updates] == list(range(first, first + count))
    assert of("task:t", reported)[-1]["state"] == {"first": "field", "n": count}
    changes = [report for report in reported if report["event"] == "connection"]
    assert [change["status"] for change in changes].count("live") == 2
    assert not [report for report in reported if report["event"] == "error"]
