"""A publish over HTTP whose answer is lost: repeated with its key, on another relay, it is one update; and no yes is lost."""

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tests.conftest import StartRelay
from tests.harness import RedisServer, RelayServer, eventually
from tests.integration.client.reading import log_of

KEY = {"Idempotency-Key": "the-same"}


class MutedRedis:
    """Redis behind a proxy that passes everything on, until its answers are to be lost."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.is_muted = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                threading.Thread(target=self._pump, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self._pump, args=(far, near, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not (is_answer and self.is_muted.is_set()):
                    sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def muted(redis_server: RedisServer) -> Iterator[MutedRedis]:
    proxy = MutedRedis(redis_server.port)
    yield proxy
    proxy.close()


def post(relay: RelayServer, progress: int, headers: dict[str, str] | None = None) -> httpx.Response:
    url = f"http://127.0.0.1:{relay.port}/api/tasks/t"
    return httpx.post(url, json={"data": {"progress": progress}}, headers=headers, timeout=20)


def curl(relay: RelayServer, progress: int, status: str = "in_progress", key: str | None = None) -> list[str]:
    url, data = f"http://127.0.0.1:{relay.port}/api/tasks/t", {"progress": progress, "status": status}
    command = ["curl", "-sS", "-m", "30", "-w", "\n%{http_code}", url, "--json", json.dumps({"data": data})]
    return [*command, "-H", f"Idempotency-Key: {key}"] if key else command


def answer_to(command: list[str]) -> tuple[dict[str, Any], int]:
    body, status = subprocess.run(command, check=True, capture_output=True, timeout=40).stdout.rsplit(b"\n", 1)
    return json.loads(body), int(status)


def test_curl_alone_makes_moves_and_ends_a_task_though_a_relay_is_killed(
    redis_server: RedisServer, muted: MutedRedis, start_relay: StartRelay
) -> None:
    first = start_relay(redis_url=f"redis://127.0.0.1:{muted.port}", redis_timeout=20)
    second = start_relay()
    with second.client("t") as watcher:
        made, status = answer_to(curl(first, 0))  # the script is known then, and the connection open
        assert (status, made["position"]["offset"]) == (200, 1)
        muted.is_muted.set()
        with subprocess.Popen(curl(first, 50, key="the-same"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as moved:
            eventually(lambda: len(log_of(redis_server, "task:t")) == 2)
            first.kill()  # after it published, and before it answered
            assert moved.communicate(timeout=40)[0].endswith(b"\n000")
            assert moved.returncode != 0
        for _ in range(2):
            again, status = answer_to(curl(second, 50, key="the-same"))
            assert (status, again["position"]["offset"]) == (200, 2)
        ended, status = answer_to(curl(second, 100, "completed"))
        assert (status, ended["position"]["offset"]) == (200, 3)
        assert [watcher.receive()["data"]["progress"] for _ in range(3)] == [0, 50, 100]
    assert [data["progress"] for _, _, data in log_of(redis_server, "task:t")] == [0, 50, 100]


def test_an_answer_that_redis_does_not_give_is_no_yes(
    redis_server: RedisServer, muted: MutedRedis, start_relay: StartRelay
) -> None:
    first = start_relay(redis_url=f"redis://127.0.0.1:{muted.port}", redis_timeout=0.5)
    second = start_relay()
    assert post(first, 0).status_code == 200
    muted.is_muted.set()
    for headers, advice in ((KEY, "repeat the request as it is"), ({}, "with an Idempotency-Key")):
        answer = post(first, 1, headers)
        assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown")
        assert advice in answer.json()["message"]
        assert int(answer.headers["retry-after"]) >= 1
    assert post(second, 1, KEY).headers["idempotency-replayed"] == "true"
    # The one without a key may have been published as well, or not: nobody can say.
    assert [data["progress"] for _, _, data in log_of(redis_server, "task:t")][:2] == [0, 1]


def test_while_redis_is_away_nothing_is_promised(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay(redis_timeout=0.5)
    assert post(relay, 0).status_code == 200
    redis_server.kill()
    for method, path in (("POST", "tasks/t"), ("POST", "batch"), ("POST", "tasks/t/cancel"), ("DELETE", "tasks/t")):
        body: Any = {"updates": [{"task_id": "t", "data": {}}]} if path == "batch" else {"data": {}}
        options = {} if path.endswith("cancel") or method == "DELETE" else {"json": body}
        answer = httpx.request(method, f"http://127.0.0.1:{relay.port}/api/{path}", timeout=20, **options)
        assert answer.status_code == 503, (path, answer.text)
        assert "retry-after" in answer.headers
        assert "6379" not in answer.text
        assert str(redis_server.port) not in answer.text
    redis_server.start()
    eventually(lambda: post(relay, 1, KEY).status_code == 200)


def test_without_memory_nothing_is_published(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay()
    assert post(relay, 0).status_code == 200
    with relay.client("t") as watcher:
        assert watcher.receive()["data"] == {"progress": 0}
        with redis_server.client() as client:
            client.config_set("maxmemory", 1)
            answer = post(relay, 1, KEY)
            assert (answer.status_code, answer.json()["code"]) == (503, "out_of_memory")
            client.config_set("maxmemory", 0)
        assert post(relay, 1, KEY).status_code == 200
        assert watcher.receive()["data"] == {"progress": 1}
    assert len(log_of(redis_server, "task:t")) == 2
