"""docs/troubleshoot.md quotes what a relay really says, and docs/ name metrics that there are."""

import json
import re
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from relay.metrics import Metrics
from tests.conftest import StartRelay
from tests.deployment.pages import PAGES, snippets
from tests.harness import PATIENCE, ROOT, RedisServer, RelayServer, eventually
from tests.ports import free_port

PAGE = (ROOT / "docs" / "troubleshoot.md").read_text()
SOURCES = "\n".join(path.read_text() for path in (ROOT / "relay").rglob("*.py"))


def quoted(text: str) -> str:
    """A text that the page quotes."""
    assert text in PAGE
    return text


def test_log_lines_are_of_events_that_there_are() -> None:
    lines = [
        json.loads(line)
        for snippet in snippets("json")
        if snippet.page == "troubleshoot.md"
        for line in snippet.text.splitlines()
    ]
    assert len(lines) >= 6
    for line in lines:
        assert f'"{line["event"]}"' in SOURCES, line


def test_metrics_are_some() -> None:
    exposed = set(re.findall(r"^# TYPE (\w+)", Metrics().render().decode(), re.MULTILINE))
    not_metrics = {"relay_client", "relay_jobs", "relay_wire"}
    for page in PAGES:
        named = set(re.findall(r"`(relay_\w+)(?:\{[^`]*\})?`", page.read_text())) - not_metrics
        assert named <= exposed, page.name


def test_redis_connection_failed(tmp_path: Path) -> None:
    """One cause after the other, on one relay, which is never restarted."""
    port = free_port()
    (tmp_path / "relay").mkdir()
    (tmp_path / "redis").mkdir()
    with RelayServer(tmp_path / "relay", f"redis://127.0.0.1:{port}/0", "serve", wait=False) as relay:
        eventually(lambda: quoted("Error 111 connecting to") in relay.logged())
        eventually(lambda: relay.get("/readyz") == (503, '{"status":"redis is not reachable"}\n'))
        assert quoted("redis is not reachable")
        assert relay.get("/healthz")[0] == 200
        with RedisServer(tmp_path / "redis", "--save", "", port=port) as redis, redis.client() as admin:
            eventually(lambda: quoted("redis subscription up") in relay.logged())
            eventually(lambda: relay.get("/readyz")[0] == 200)

            admin.execute_command("ACL", "SETUSER", "default", "-@pubsub")
            admin.client_kill_filter(_type="pubsub")
            eventually(lambda: quoted("NoPermissionError") in relay.logged())
            admin.execute_command("ACL", "SETUSER", "default", "+@all")
            eventually(lambda: relay.get("/readyz")[0] == 200)

            admin.config_set("requirepass", "secret")
            admin.client_kill_filter(skipme=True)
            eventually(lambda: quoted("AuthenticationError: Authentication required") in relay.logged())
            admin.config_set("requirepass", "")
            eventually(lambda: relay.get("/readyz")[0] == 200)

            redis.freeze()
            eventually(lambda: quoted("TooSlowError") in relay.logged())
            redis.thaw()
            eventually(lambda: relay.get("/readyz")[0] == 200)


def test_no_websocket_updates(start_relay: StartRelay, redis_server: RedisServer) -> None:
    relay = start_relay("serve", allowed_origins="https://app.example.com", max_clients=1)
    with pytest.raises(InvalidStatus, match="403"), connect(relay.url, origin=Origin("https://elsewhere.example")):
        pass
    assert relay.metric(quoted('relay_connections_refused_total{reason="origin"}')) == 1
    with relay.client(), connect(relay.url) as second, pytest.raises(ConnectionClosed, match="1013"):
        second.recv(PATIENCE)
    assert relay.metric(quoted('relay_connections_refused_total{reason="too_many_clients"}')) == 1

    messages = {"not_json": "not json", "missing_task_id": '{"type":"task_update","data":{}}', "too_big": "x" * 300_000}
    for code, message in messages.items():
        assert quoted(f'"code": "{code}"')
        redis_server.publish("task_updates", message)
        eventually(lambda code=code: relay.metric(f'relay_updates_invalid_total{{code="{code}"}}') == 1)  # type: ignore[misc]
    assert relay.logged().count(quoted("published message skipped")) == 3
    assert quoted("what is published on task_updates needs a `task_id`") in relay.logged()

    with redis_server.client() as admin:
        admin.config_set("maxmemory", "1mb")
        redis_server.publish_task("t", n=1)
        eventually(lambda: quoted("redis does not take writes") in relay.logged())
        assert quoted("command not allowed when used memory > 'maxmemory'") in relay.logged()
        assert relay.get("/readyz") == (503, '{"status":"redis does not take writes"}\n')
        eventually(lambda: relay.metric(quoted("relay_updates_unpersisted_total")) == 1)
