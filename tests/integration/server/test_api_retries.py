"""A publish over HTTP whose answer is lost: repeated with its key, on another relay, it is one update; and no yes is lost."""

import socket
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


def test_killed_between_publish_and_answer(
    redis_server: RedisServer, muted: MutedRedis, start_relay: StartRelay
) -> None:
    first = start_relay(redis_url=f"redis://127.0.0.1:{muted.port}", redis_timeout=20)
    second = start_relay()
    assert post(first, 0).json()["position"]["offset"] == 1  # the script is known, and the connection open
    muted.is_muted.set()
    outcome: list[Any] = []

    def request() -> None:
        try:
            outcome.append(post(first, 1, KEY))
        except httpx.TransportError as error:
            outcome.append(error)

    client = threading.Thread(target=request)
    client.start()
    eventually(lambda: len(log_of(redis_server, "task:t")) == 2)
    first.kill()
    client.join(20)
    assert isinstance(outcome[0], httpx.TransportError)
    again = post(second, 1, KEY)
    assert (again.status_code, again.json()["position"]["offset"]) == (200, 2)
    assert again.headers["idempotency-replayed"] == "true"
    assert post(second, 1, KEY).json() == again.json()
    assert [data["progress"] for _, _, data in log_of(redis_server, "task:t")] == [0, 1]


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
