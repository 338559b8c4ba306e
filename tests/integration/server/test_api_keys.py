"""API keys on every way in: a whole key has its scopes, one that is off by a character has nothing."""

from hashlib import sha256

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.conftest import StartRelay
from tests.harness import PATIENCE, RedisServer, RelayServer

KEY, FORMER = "relay_" + "Ab1-" * 10 + "xyz", "relay_" + "Ab1_" * 10 + "xyz"
SCOPES = "watch:prefix:build/ list:prefix:build/ publish:prefix:build/"
KEYS = "; ".join(f"ci:{sha256(key.encode()).hexdigest()}:{SCOPES}" for key in (KEY, FORMER))

#: The same key but for one character, in each place where a careless comparison might stop.
WRONG = [
    KEY[:-1] + "w",
    KEY[:6] + "B" + KEY[7:],
    KEY[:-1],
    KEY + "a",
    KEY.upper(),
    KEY.swapcase(),
    "relay_",
    "relay_" + "0" * 5000,
    sha256(KEY.encode()).hexdigest(),
    KEYS.partition(";")[0],
]


#: Without the certificates that it has no use for, and whose loading takes longer than a request.
HTTP = httpx.Client(verify=False, timeout=PATIENCE)


def ask(relay: RelayServer, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    return HTTP.request(method, f"http://127.0.0.1:{relay.port}{path}", headers=headers)


def carried(key: str) -> list[dict[str, str]]:
    """The headers that may carry a key."""
    return [{"authorization": f"Bearer {key}"}, {"authorization": f"bearer  {key}"}, {"x-api-key": key}]


def test_a_key_has_its_scopes_on_every_way_in(share_relay: StartRelay, shared_redis: RedisServer) -> None:
    relay = share_relay(api_keys=KEYS)
    shared_redis.publish_task("build/1", n=1)
    shared_redis.publish_task("other", n=1)
    for key in (KEY, FORMER):
        for headers in carried(key):
            assert ask(relay, "/api/tasks/build%2F1", **headers).status_code == 200
            assert ask(relay, "/api/tasks/build%2F1/heartbeat", "POST", **headers).status_code == 204
            listed = ask(relay, "/api/tasks", **headers).json()["tasks"]
            assert [task["task_id"] for task in listed] == ["build/1"]
            for task_id in ("other", "no-such"):
                assert ask(relay, f"/api/tasks/{task_id}", **headers).status_code == 403
                assert ask(relay, f"/api/tasks/{task_id}/heartbeat", "POST", **headers).status_code == 403
            with relay.client("build/1", additional_headers=headers) as client:
                assert client.receive()["data"] == {"n": 1}
                client.send({"type": "subscribe", "task_id": "other"})
                assert client.receive()["code"] == "forbidden"
        with relay.client() as client:
            client.send({"type": "authenticate", "token": key})
            assert client.receive()["type"] == "authenticated"
            client.subscribe("build/1")


def test_a_key_off_by_one_character_has_nothing(share_relay: StartRelay, shared_redis: RedisServer) -> None:
    relay = share_relay(api_keys=KEYS)
    shared_redis.publish_task("build/1", n=1)
    with relay.client("build/1", additional_headers={"x-api-key": KEY}) as good:
        assert good.receive()["data"] == {"n": 1}
        for number, wrong in enumerate(WRONG):
            is_refused_everywhere(relay, wrong)
            shared_redis.publish_task("build/1", n=number)
            assert good.receive()["data"] == {"n": number}
    assert not any(key in relay.logged() for key in (KEY, *WRONG) if key != "relay_")


def is_refused_everywhere(relay: RelayServer, wrong: str) -> None:
    """Every way in refuses a key, however it is carried."""
    for headers in carried(wrong):
        for path in ("/api/tasks", "/api/tasks/build%2F1", "/api/tasks/no-such", "/events?task=build/1"):
            assert ask(relay, path, **headers).status_code == 401, path
        assert ask(relay, "/api/tasks/build%2F1/heartbeat", "POST", **headers).status_code == 401
        # What does not begin like a key may be a token, and its client may still send a better one.
        if wrong.startswith("relay_") or "x-api-key" in headers:
            assert closed_with(relay, None, headers) == 4403
    assert closed_with(relay, wrong, {}) == 4403


def closed_with(relay: RelayServer, token: str | None, headers: dict[str, str]) -> int:
    """The code with which a client is closed."""
    with relay.client(additional_headers=headers) as client:
        if token is not None:
            client.send({"type": "authenticate", "token": token})
        try:
            while client.receive()["type"] == "error":
                pass
        except ConnectionClosed as closed:
            return 0 if closed.rcvd is None else closed.rcvd.code
    raise AssertionError("it is served")


def test_one_key_may_not_have_all_places(share_relay: StartRelay) -> None:
    relay = share_relay(api_keys=KEYS, max_clients_per_subject=2)
    headers = {"x-api-key": KEY}
    with relay.client(additional_headers=headers), relay.client(additional_headers={"x-api-key": FORMER}):
        with pytest.raises(InvalidStatus) as refused, relay.client(additional_headers=headers):
            pass
        assert refused.value.response.status_code == 429
        assert ask(relay, "/events?task=build/1", **headers).status_code == 429
        assert closed_with(relay, KEY, {}) == 4429
