"""Redis goes and comes back; the relay stays."""

import time

import pytest

from tests.conftest import StartRelay
from tests.harness import RedisServer, eventually


def test_redis_killed_and_restarted(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay()
    with relay.client("t") as client:
        for round_ in range(3):
            redis_server.kill()
            eventually(lambda: relay.get("/readyz")[0] == 503)
            assert relay.get("/healthz")[0] == 200
            redis_server.start()
            returned = time.monotonic()
            # ReceivedMessages as soon as the relay has subscribed again; a plain PUBLISH before that reaches nobody.
            eventually(lambda round_=round_: redis_server.publish_task("t", round=round_), within=2.0)  # type: ignore[misc]
            print(f"updates flow {time.monotonic() - returned:.2f} s after Redis is back")
            assert client.receive()["data"] == {"round": round_}
            eventually(lambda: relay.get("/readyz")[0] == 200, within=2.0)
    eventually(lambda: relay.metric("relay_redis_reconnects_total") >= 3)


def test_frozen_redis_is_down(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay(redis_timeout=1)
    with relay.client("t") as client:
        redis_server.freeze()
        try:
            eventually(lambda: relay.get("/readyz")[0] == 503, within=5.0)
            client.send({"type": "ping"})
            assert client.receive()["type"] == "pong"
        finally:
            redis_server.thaw()
        thawed = time.monotonic()
        eventually(lambda: redis_server.publish_task("t", back=True), within=2.0)
        print(f"updates flow {time.monotonic() - thawed:.2f} s after Redis is thawed")
        assert client.receive()["data"] == {"back": True}
        eventually(lambda: relay.get("/readyz")[0] == 200, within=2.0)


def test_relay_starts_before_redis(redis_server: RedisServer, start_relay: StartRelay) -> None:
    redis_server.kill()
    relay = start_relay(wait=False)
    eventually(lambda: relay.get("/healthz")[0] == 200)
    assert relay.get("/readyz")[0] == 503
    redis_server.start()
    eventually(lambda: relay.get("/readyz")[0] == 200, within=3.0)


@pytest.mark.parametrize("password", ["wrong", ""])
def test_wrong_password_is_explained_without_showing_it(
    password: str, redis_server: RedisServer, start_relay: StartRelay
) -> None:
    with redis_server.client() as admin:
        admin.config_set("requirepass", "s3cret")
    login = f":{password}-hush@" if password else ""
    relay = start_relay(redis_url=f"redis://{login}127.0.0.1:{redis_server.port}/0", wait=False)
    eventually(lambda: "redis subscription lost" in relay.logged())
    assert relay.get("/readyz")[0] == 503
    assert "uthentication" in relay.logged() or "WRONGPASS" in relay.logged() or "invalid" in relay.logged()
    assert "hush" not in relay.logged()
