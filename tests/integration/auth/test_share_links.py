"""Share links on real relays: one task, one verb, an end, and who can end it sooner."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.conftest import StartRelay
from tests.harness import PATIENCE, Client, RedisServer, RelayServer, eventually
from tests.integration.auth.tokens import SECRET, SETTINGS, bearer, call, publish_owned, token


@pytest.fixture
def relay(share_relay: StartRelay) -> RelayServer:
    return share_relay(**SETTINGS)


def shared(relay: RelayServer, task_id: str, text: str, **body: Any) -> dict[str, Any]:
    status, answer = call(relay, f"/api/tasks/{task_id}/share", bearer(text), "POST", body or None)
    assert status == 201, answer
    assert answer["task_id"] == task_id
    assert answer["fragment"] == f"#share={answer['token']}"
    return dict(answer)


@pytest.fixture
def watcher(relay: RelayServer) -> Iterator[Client]:
    with connect(relay.url, open_timeout=PATIENCE) as connection:
        yield Client(connection)


def test_who_has_the_link_watches_this_task_and_does_nothing_else(
    relay: RelayServer, shared_redis: RedisServer, watcher: Client
) -> None:
    link = shared(relay, "demo", token({"prefixes": ["de"], "general": True}, sub="ann", jti="of-ann"))
    for task_id in ("demo", "demo2"):
        shared_redis.publish_task(task_id, n=1)
    eventually(lambda: call(relay, "/api/tasks/demo", bearer(link["token"]))[0] == 200)
    watcher.send({"type": "authenticate", "token": link["token"]})
    assert watcher.receive()["type"] == "authenticated"
    watcher.send({"type": "subscribe", "task_id": "demo2"})
    assert watcher.receive()["code"] == "forbidden"
    watcher.send({"type": "subscribe", "channel": "general", "position": None})
    assert watcher.receive()["code"] == "forbidden"
    watcher.subscribe("demo")
    assert watcher.receive()["data"] == {"n": 1}
    holder = bearer(link["token"])
    update = {"data": {"n": 2}}
    assert call(relay, "/api/tasks/demo/history", holder)[0] == 200
    assert call(relay, "/api/tasks", holder) == (200, {"tasks": [], "next": None})
    assert call(relay, "/api/tasks/demo2", holder)[0] == 403
    for path, body in (("", update), ("/cancel", None), ("/heartbeat", None)):
        assert call(relay, f"/api/tasks/demo{path}", holder, "POST", body)[0] == 403
    status, error = call(relay, "/api/tasks/demo/share", holder, "POST")
    assert (status, error["code"]) == (403, "share_link")
    assert call(relay, "/api/revoke", holder, "POST", {"sub": "ann"})[0] == 403
    assert call(relay, f"/api/tasks/demo?share={link['token']}")[0] == 400, "never in a query"
    assert link["token"].split(".")[2] not in relay.logged()


def test_it_ends_with_the_grant_of_its_maker_at_the_latest(relay: RelayServer) -> None:
    short = shared(relay, "demo", token({"tasks": ["demo"]}, seconds=100))
    assert short["expires_at"] <= time.time() + 100
    asked = shared(relay, "demo", token({"tasks": ["demo"]}, seconds=500), ttl=50)
    assert 20 < asked["expires_at"] - time.time() <= 50
    longest = shared(relay, "demo", token({"tasks": ["demo"]}, seconds=1e6))
    assert longest["expires_at"] <= time.time() + 86_400
    for wrong in ({"ttl": 0}, {"ttl": "1h"}, {"ttl": 1, "more": 1}):
        assert call(relay, "/api/tasks/demo/share", bearer(token({"tasks": ["demo"]})), "POST", wrong)[0] == 400


def test_only_who_may_watch_a_task_shares_it(relay: RelayServer, shared_redis: RedisServer) -> None:
    publish_owned(shared_redis, "t", ["ann"], n=1)
    eventually(lambda: call(relay, "/api/tasks/t", bearer(token({"tasks": ["t"]})))[0] == 200)
    ann, bob = (token({"owned": True}, sub=name) for name in ("ann", "bob"))
    link = shared(relay, "t", ann)
    assert call(relay, "/api/tasks/t", bearer(link["token"]))[0] == 200
    refusals = [call(relay, f"/api/tasks/{task_id}/share", bearer(bob), "POST") for task_id in ("t", "nobody")]
    assert refusals[0][0] == 403
    assert refusals[0] == refusals[1], "the same answer whether there is such a task or not"
    publisher = token(relay={"publish": {"all": True}, "list": {"all": True}})
    assert call(relay, "/api/tasks/t/share", bearer(publisher), "POST")[0] == 403
    assert call(relay, "/api/tasks/t/share", method="POST")[0] == 401
    cookie = {"Cookie": f"__Host-relay={ann}", "Origin": "https://evil.example"}
    assert call(relay, "/api/tasks/t/share", cookie, "POST")[0] == 403


def close_code(client: Client) -> int:
    while True:
        try:
            client.receive()
        except ConnectionClosed as closed:
            return 1006 if closed.rcvd is None else closed.rcvd.code


def test_its_maker_and_operators_end_it(relay: RelayServer, watcher: Client) -> None:
    ann = token({"tasks": ["demo"]}, sub="ann", iat=time.time())
    first, second, third = (shared(relay, "demo", ann) for _ in range(3))
    watcher.send({"type": "authenticate", "token": first["token"]})
    assert watcher.receive()["type"] == "authenticated"
    for stranger in (token({"all": True}, sub="bob"), second["token"], token({"all": True})):
        assert call(relay, "/api/revoke", bearer(stranger), "POST", {"token": first["token"]})[0] == 403
    assert call(relay, "/api/revoke", bearer(ann), "POST", {"token": ann})[0] == 403, "no link, but a token"
    status, answer = call(relay, "/api/revoke", bearer(ann), "POST", {"token": first["token"]})
    assert (status, answer["revoked"]) == (200, {"jti": first["token_id"]})
    assert close_code(watcher) == 4403
    assert call(relay, "/api/tasks/demo", bearer(second["token"]))[0] == 404, "the others hold"
    operator = bearer(token(relay={"revoke": {"all": True}}))
    assert call(relay, "/api/revoke", operator, "POST", {"jti": second["token_id"]})[0] == 200
    eventually(lambda: call(relay, "/api/tasks/demo", bearer(second["token"]))[0] == 401)
    assert call(relay, "/api/revoke", operator, "POST", {"sub": "ann"})[0] == 200
    eventually(lambda: call(relay, "/api/tasks/demo", bearer(third["token"]))[0] == 401)


def test_a_relay_without_a_key_to_sign_with_says_so(share_relay: StartRelay, tmp_path: Path) -> None:
    relay = share_relay(anonymous="watch:all")
    status, error = call(relay, "/api/tasks/demo/share", method="POST")
    assert (status, error["code"]) == (409, "sharing_off")
    assert "RELAY_SHARE_KEY" in error["message"]


def test_a_relay_that_asks_for_no_grants_says_so(share_relay: StartRelay) -> None:
    status, error = call(share_relay(), "/api/tasks/demo/share", method="POST")
    assert (status, error["code"]) == (409, "sharing_unneeded")


def test_a_private_key_of_its_own(start_relay: StartRelay, tmp_path: Path) -> None:
    key, path = ed25519.Ed25519PrivateKey.generate(), tmp_path / "share.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    relay = start_relay(anonymous="watch:prefix:public/", share_key=path, jwt_issuer="us", jwt_audience="relay,other")
    status, link = call(relay, "/api/tasks/public%2F1/share", method="POST")
    assert status == 201
    assert call(relay, "/api/tasks/public%2F1", bearer(link["token"]))[0] == 404, "it may be watched, and there is none"
    assert call(relay, "/api/tasks/public%2F2", bearer(link["token"]))[0] == 403
    assert call(relay, "/api/tasks/public%2F1", bearer(token({"all": True})))[0] == 401, "signed with another key"
    assert SECRET not in relay.logged()
