"""The status for operators: what `/api/status` and `relay status` say of a real relay, and to whom."""

import json
import socket
import threading
from typing import Any

import httpx
import pytest
from relay_client.tail.errors import ExitStatus

from tests import commands
from tests.conftest import StartRelay
from tests.harness import PATIENCE, RedisServer, RelayServer, eventually

#: Slow clients are kept for as long as a test looks at them.
PATIENT: dict[str, Any] = {
    "queue_messages": 10_000,
    "coalesce_after": 9_000,
    "queue_bytes": 40_000_000,
    "queue_max_age": 600,
}


def status_of(relay: RelayServer, path: str = "/api/status") -> Any:
    answer = httpx.get(f"http://127.0.0.1:{relay.port}{path}", timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_clients_rates_redis_and_who_is_slow(share_relay: StartRelay, shared_redis: RedisServer) -> None:
    relay = share_relay(**PATIENT)
    base = f"http://127.0.0.1:{relay.port}"
    with relay.client("t") as client, httpx.stream("GET", f"{base}/events?general=1", timeout=PATIENCE) as stream:
        assert stream.status_code == 200
        slow = relay.raw_client("big", receive_buffer=4096)
        for number in range(40):
            shared_redis.publish_task("big", text="x" * 200_000, n=number, status="in_progress")
        shared_redis.publish_task("t", n=1)
        assert client.receive()["data"] == {"n": 1}
        status = eventually(lambda: (found := status_of(relay))["totals"]["deliveries_per_second"] and found)
    (own,) = status["relays"]
    assert (status["answered_by"], status["silent"], status["redis_error"]) == (own["id"], [], None)
    assert (status["status"], own["status"], own["redis_connected"]) == ("ready", "ready", True)
    connections = {(each["way"], each["transport"]): each["count"] for each in status["totals"]["connections"]}
    assert connections == {("/ws/tasks", "hijacked"): 2, ("/events", "hijacked"): 1}
    (slowest,) = status["slowest"]
    host, port = slow.getsockname()
    assert (slowest["client"], slowest["way"], slowest["relay"]) == (f"{host}:{port}", "/ws/tasks", own["name"])
    assert 0 < slowest["limit_used"] < 1
    assert slowest["messages"] == status["totals"]["waiting_messages"] > 0
    assert slowest["bytes"] > 200_000
    assert status["tasks"] == {"known": 2, "in_progress": 1}
    assert status["redis"][0]["memory_used"] > 0
    assert status["totals"]["plain_per_second"] > 0


def test_who_publishes_what_is_malformed(share_relay: StartRelay, shared_redis: RedisServer) -> None:
    relay = share_relay(**PATIENT)
    api = f"http://127.0.0.1:{relay.port}/api"
    shared_redis.publish("task_updates", '{"data": "\x1b[2J')
    for _ in range(2):
        assert httpx.post(f"{api}/tasks/t", json={"dat": {}}, timeout=PATIENCE).status_code == 400
    batch = {"updates": [{"task_id": "t", "data": {"n": 1}}, {"data": {}}]}
    assert httpx.post(f"{api}/batch", json=batch, timeout=PATIENCE).status_code == 207

    def found() -> dict[tuple[Any, ...], Any]:
        return {(each["source"], each["client"], each["code"]): each for each in status_of(relay)["malformed"]}

    eventually(lambda: ("PUBLISH task_updates", None, "not_json") in found() and len(found()) == 2)
    published, posted = (
        found()["PUBLISH task_updates", None, "not_json"],
        found()["HTTP API", "127.0.0.1", "wrong_type"],
    )
    assert (published["count"], published["example"]) == (1, '{"data": "\ufffd[2J')
    assert (posted["count"], "task_id or a channel" in posted["error"]) == (3, True)
    # A proxy's client need not be on this machine.
    for path in ("/api/status", "/status"):
        elsewhere = httpx.get(
            f"{api.removesuffix('/api')}{path}", headers={"forwarded": "for=192.0.2.7"}, timeout=PATIENCE
        )
        assert (elsewhere.status_code, elsewhere.json()["code"]) == (403, "local_only")


def test_the_command_in_all_its_forms(share_relay: StartRelay) -> None:
    relay = share_relay(**PATIENT)
    with relay.client("t"):
        eventually(lambda: status_of(relay)["totals"]["clients"] == 1)  # of the last second
        ended = commands.run("status", "--json", RELAY_URL=relay.url)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert json.loads(ended.stdout)["totals"]["clients"] == 1
        port = {"RELAY_PORT": str(relay.port)}
        for arguments, environ in ((["--once"], port), ([], port), (["--url", f"http://127.0.0.1:{relay.port}"], {})):
            ended = commands.run("status", *arguments, **environ)
            assert (ended.returncode, ended.stderr) == (0, "")
            assert "/ws/tasks" in ended.stdout
            assert "\x1b" not in ended.stdout
    everything = json.loads(commands.run("status", "--json", RELAY_URL=relay.url).stdout)
    assert everything.keys() == status_of(relay, "/status").keys()


def answering(listener: socket.socket, status: int, body: bytes) -> None:
    """Answer one request."""
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 %d -\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))


@pytest.mark.parametrize(
    ("answer", "status", "complaint"),
    [
        ((200, b"<html>"), ExitStatus.REFUSED, "no status of a relay"),
        ((200, b'{"version":"\xff"}'), ExitStatus.REFUSED, "no status of a relay"),
        ((200, b'{"relays":[]}'), ExitStatus.REFUSED, "no status of a relay"),
        ((302, b""), ExitStatus.REFUSED, "no relay that has a status: 302"),
        ((404, b"[]"), ExitStatus.REFUSED, "RELAY_ADMIN_BIND"),
        ((503, b'{"message":"the relay is starting"}'), ExitStatus.UNREACHABLE, "503 the relay is starting"),
    ],
)
def test_what_is_no_status_is_said_in_one_line(answer: tuple[int, bytes], status: int, complaint: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=answering, args=(listener, *answer))
        thread.start()
        ended = commands.run("status", "--url", url)
        thread.join()
    assert (ended.returncode, ended.stderr.count("\n"), complaint in ended.stderr) == (status, 1, True), ended.stderr


def test_the_command_says_where_no_relay_is() -> None:
    ended = commands.run("status", "--url", "http://127.0.0.1:1")
    assert (ended.returncode, ended.stderr.count("\n")) == (ExitStatus.UNREACHABLE, 1)
    assert ended.stderr.startswith("relay: cannot reach http://127.0.0.1:1: ")
    for url, environ in (("ftp://x", {}), (None, {"RELAY_URL": "ftp://x"})):
        ended = commands.run("status", *(["--url", url] if url else []), **environ)
        assert (ended.returncode, "must be a URL" in ended.stderr) == (ExitStatus.USAGE, True)
