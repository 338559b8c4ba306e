"""The main job on real processes: a plain PUBLISH reaches a subscribed client, however the relay is run."""

import signal
import subprocess
import sys

import pytest

from tests.conftest import StartRelay
from tests.harness import Kind, RedisServer


@pytest.mark.parametrize("kind", ["hypercorn", "hypercorn-tls", "uvicorn", "serve"])
def test_publish_reaches_subscriber(kind: Kind, redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay(kind)
    options = relay.tls_options()
    with relay.client("t", **options) as client, relay.client(**options) as other:
        assert redis_server.publish_task("t", progress=40, note="é☃") == 1
        redis_server.publish_general(kind="news")
        assert client.receive() == {
            "type": "task_update",
            "task_id": "t",
            "data": {"progress": 40, "note": "é☃"},
        }
        news = {"type": "general_update", "data": {"kind": "news"}}
        assert client.receive() == news
        assert other.receive() == news
    expected = "hijacked" if kind in ("hypercorn", "serve") else "asgi"
    if kind != "hypercorn-tls":
        assert relay.metric(f'relay_connections_accepted_total{{transport="{expected}"}}') == 2
    # uvicorn, when it has shut down in good order, ends by the signal that it was sent.
    assert relay.terminate() == (-signal.SIGTERM if kind == "uvicorn" else 0)


def test_as_many_files_may_be_opened_as_the_system_lets_us() -> None:
    source = (
        "import resource as r; from relay.processes import raise_file_limit as f; hard = r.getrlimit(r.RLIMIT_NOFILE)[1];"
        "r.setrlimit(r.RLIMIT_NOFILE, (256, hard)); f(); print(r.getrlimit(r.RLIMIT_NOFILE)[0], hard)"
    )
    soft, hard = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, check=True, text=True
    ).stdout.split()
    assert int(soft) == min(int(hard), 65536) if int(hard) > 0 else int(soft) == 65536
