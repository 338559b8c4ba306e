"""docs/migrate.md, step 3: a real nginx with the guide's configuration, before a relay and an app that keeps its own /api."""

import json
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from websockets.sync.client import connect

from relay.processes import start_child
from tests.conftest import StartRelay
from tests.deployment.pages import commands, snippets
from tests.harness import PATIENCE, Client, RedisServer, Server, eventually
from tests.http_server import RequestHandler, serving
from tests.ports import free_port


class App(RequestHandler):
    """The app, which says which path it was asked for."""

    def do_GET(self) -> None:
        self.answer(json.dumps({"app": self.path}).encode(), "application/json")


class Nginx(Server):
    """nginx with the guide's server; only ports are other ones, and its files are the test's."""

    name = "nginx"

    def __init__(self, directory: Path, relay_port: int, app_port: int) -> None:
        super().__init__(directory)
        self.port = free_port()
        (guide,) = snippets("nginx")
        assert guide.page == "migrate.md"
        text = guide.text
        ports = {"listen 80;": f"listen 127.0.0.1:{self.port};", ":8000;": f":{relay_port};", ":5000;": f":{app_port};"}
        for old, new in ports.items():
            assert old in text
            text = text.replace(old, new)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        files = "".join(f"{kind}_temp_path {directory}/{kind};" for kind in kinds)
        main = f"daemon off; pid {directory}/pid; events {{ }}"
        (directory / "nginx.conf").write_text(f"{main} http {{ {files} access_log off; {text} }}")
        with self.log.open("wb") as log:
            command = ["nginx", "-e", "stderr", "-c", str(directory / "nginx.conf")]
            self._child = start_child(command, stdout=log, stderr=subprocess.STDOUT)

    def get(self, path: str) -> tuple[int, str, dict[str, str]]:
        """A GET; status 0 means that nobody answered."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE) as response:
                return response.status, response.read().decode(), dict(response.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(), dict(error.headers)
        except OSError:
            return 0, "", {}


@dataclass
class Moved:
    """What the guide leads to."""

    nginx: Nginx
    redis: RedisServer


@pytest.fixture
def moved(tmp_path: Path, redis_server: RedisServer, start_relay: StartRelay) -> Iterator[Moved]:
    (prefix,) = {match[1] for line in commands() if (match := re.search(r"RELAY_API_PREFIX=(\S+)", line))}
    relay = start_relay("serve", api_prefix=prefix)
    directory = tmp_path / "nginx"
    directory.mkdir()
    with serving(App) as port, Nginx(directory, relay.port, port) as nginx:
        eventually(lambda: nginx.get("/")[0] == 200)
        yield Moved(nginx, redis_server)


def test_only_the_websockets_move(moved: Moved) -> None:
    nginx = moved.nginx
    with connect(f"ws://127.0.0.1:{nginx.port}/ws/tasks", open_timeout=PATIENCE) as connection:
        client = Client(connection)
        client.subscribe("t")
        moved.redis.publish_task("t", progress=40)
        assert client.receive() == {"type": "task_update", "task_id": "t", "data": {"progress": 40}}
    # The app's own paths, among them those that Relay has by default.
    for path in ("/", "/api/tasks", "/api/tasks/t", "/api/users", "/ws/tasks/other", "/metrics", "/healthz"):
        assert json.loads(nginx.get(path)[1]) == {"app": path}
    # Relay's own.
    listed = json.loads(eventually(lambda: nginx.get("/relay/tasks")[1]))
    assert [task["task_id"] for task in listed["tasks"]] == ["t"]
    assert json.loads(nginx.get("/relay/tasks/t")[1])["data"] == {"progress": 40}
    for path in ("/relay-client.js", "/relay.js", "/relay-worker.js"):
        status, _, headers = nginx.get(path)
        assert (status, headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")


def test_a_plain_request_for_the_websocket_says_what_to_do(moved: Moved) -> None:
    status, text, _ = moved.nginx.get("/ws/tasks")
    assert status == 426
    assert "ws://" in text
