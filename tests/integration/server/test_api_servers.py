"""The HTTP API on every server, over TLS, over HTTP/2 and below another prefix; and a cancel from `curl` to the worker."""

import threading

import httpx
import pytest
from relay_client import TaskCancelled, TaskReporter

from tests.conftest import StartRelay
from tests.harness import Kind, RedisServer, eventually
from tests.integration.client.reading import log_of, state_of


@pytest.mark.parametrize("kind", ["hypercorn-asyncio", "uvicorn", "hypercorn-tls", "serve"])
def test_publishing_on_every_server(kind: Kind, redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay(kind, message_timeout=0.5)
    verify = relay.tls_options().get("ssl", False)
    scheme = "https" if kind == "hypercorn-tls" else "http"
    with httpx.Client(base_url=f"{scheme}://127.0.0.1:{relay.port}/api", verify=verify, timeout=20) as api:
        for number in range(3):
            answer = api.post("/tasks/a%2Fb", json={"data": {"progress": number}})
            assert answer.json()["position"]["offset"] == number + 1
        assert api.post("/tasks/t", content=b"x" * 400_000).status_code == 413
        assert api.post("/tasks/t", json={"data": 1}).status_code == 400
        assert api.delete("/tasks/a%2Fb").status_code == 204
    assert log_of(redis_server, "task:t") == []


def test_another_prefix(share_relay: StartRelay) -> None:
    relay = share_relay(api_prefix="/relay/v1")
    with httpx.Client(base_url=f"http://127.0.0.1:{relay.port}/relay/v1", timeout=20) as api:
        assert api.post("/tasks/t", json={"data": {"a": 1}}).status_code == 200
        assert api.get("/tasks/t/history").json()["updates"][0]["data"] == {"a": 1}
        assert all(path.startswith("/relay/v1/") for path in api.get("/openapi.json").json()["paths"])
        assert 'href="/relay/v1/openapi.json"' in api.get("/docs").text
    assert httpx.get(f"http://127.0.0.1:{relay.port}/api/tasks").status_code == 404


def test_a_cancel_over_http_stops_the_worker(shared_redis: RedisServer, share_relay: StartRelay) -> None:
    relay = share_relay()
    ended: list[str] = []

    def work() -> None:
        with TaskReporter(shared_redis.url, cancellable=True) as report:
            try:
                with report("film", title="A film") as task:
                    frame = 0
                    while True:
                        frame += 1
                        task.progress(message=f"Frame {frame}")
            except TaskCancelled as cancelled:
                ended.append(str(cancelled))

    worker = threading.Thread(target=work)
    with relay.client("film") as watcher:
        worker.start()
        eventually(lambda: watcher.receive()["data"].get("message"))
        answer = httpx.post(f"http://127.0.0.1:{relay.port}/api/tasks/film/cancel", json={"reason": "enough"})
        assert answer.status_code == 202
        worker.join(20)
        eventually(lambda: watcher.receive()["data"].get("status") == "cancelled")
    assert ended == ["enough"]
    assert state_of(shared_redis, "film")["cancellable"] is True
