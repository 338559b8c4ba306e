"""Grants on real relays: who sees what, by each way in, and how everything else is refused."""

import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any
from urllib.parse import quote

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests import commands
from tests.conftest import StartRelay
from tests.harness import PATIENCE, Client, RedisServer, RelayServer, eventually
from tests.integration.auth.tokens import SECRET, SETTINGS, bearer, call, publish_owned, token

DEMO = {"tasks": ["demo"], "general": True}
FORBIDDEN = "your grant does not cover this, or it does not exist"


_connections = ExitStack()


@pytest.fixture(autouse=True)
def _close_connections(share_relay: StartRelay) -> Iterator[None]:
    """Connections last as long as the test that opened them, and no longer than its relay."""
    with _connections:
        yield


def opened(url: str, **options: Any) -> Client:
    return Client(_connections.enter_context(connect(url, open_timeout=PATIENCE, **options)))


def client_of(relay: RelayServer, text: str | None = None, **options: Any) -> Client:
    """A client that has shown a token in its first message."""
    client = opened(relay.url, **options)
    if text is not None:
        with suppress(ConnectionClosed):  # the request's own credentials may have ended it already
            client.send({"type": "authenticate", "token": text})
    return client


def authenticated(relay: RelayServer, text: str) -> Client:
    client = client_of(relay, text)
    answer = client.receive()
    assert answer["type"] == "authenticated", answer
    return client


def close_code(client: Client) -> tuple[list[Any], int]:
    """What a client still receives, and the code that its connection is closed with."""
    messages = []
    try:
        while True:
            messages.append(client.receive())
    except ConnectionClosed as closed:
        return messages, closed.rcvd.code if closed.rcvd is not None else 1006


def test_a_client_sees_what_its_grant_covers_and_nothing_else(
    shared_redis: RedisServer, share_relay: StartRelay
) -> None:
    relay = share_relay(**SETTINGS)
    client = authenticated(relay, token(DEMO))
    client.subscribe("demo")
    for other in ("demo2", "Demo", "dem", "nobody"):
        shared_redis.publish_task("demo2", secret=1)
        client.send({"type": "subscribe", "task_id": other})
        error = {"type": "error", "code": "forbidden", "message": FORBIDDEN, "task_id": other}
        assert client.receive() == error, "the same answer whether there is such a task or not"
    client.send({"type": "subscribe", "channel": "general", "position": None})
    assert client.receive()["type"] == "subscribed"
    shared_redis.publish_task("demo2", secret=2)
    shared_redis.publish_task("demo", progress=1)
    assert client.receive()["data"] == {"progress": 1}
    with shared_redis.client() as redis:
        assert redis.keys("*nobody*") == [], "asking writes nothing"


def test_general_updates_are_for_those_who_are_granted_them(shared_redis: RedisServer, share_relay: StartRelay) -> None:
    relay = share_relay(**SETTINGS)
    without, having = authenticated(relay, token({"tasks": ["a"]})), authenticated(relay, token(DEMO))
    shared_redis.publish_general(news=1)
    assert having.receive()["data"] == {"news": 1}
    without.send({"type": "ping"})
    assert without.receive()["type"] == "pong"
    without.send({"type": "subscribe", "channel": "general", "position": None})
    assert without.receive()["code"] == "forbidden"


def test_an_owner_follows_a_task_until_it_changes_hands(shared_redis: RedisServer, share_relay: StartRelay) -> None:
    relay = share_relay(**SETTINGS)
    ann = authenticated(relay, token({"owned": True}, sub="ann"))
    bob = authenticated(relay, token({"owned": True}, sub="bob", groups=["team"]))
    for client in (ann, bob):
        client.send({"type": "subscribe", "task_id": "t"})
        assert client.receive()["code"] == "forbidden", "there is no such task"
    publish_owned(shared_redis, "t", ["ann"], n=1)
    eventually(lambda: call(relay, "/api/tasks/t", bearer(token({"tasks": ["t"]})))[0] == 200)
    ann.send({"type": "subscribe", "task_id": "t"})
    assert ann.receive() == {"type": "subscribed", "task_id": "t"}
    assert ann.receive()["data"] == {"n": 1}
    bob.send({"type": "subscribe", "task_id": "t"})
    assert bob.receive()["code"] == "forbidden"
    assert call(relay, "/api/tasks/t", bearer(token({"owned": True}, sub="bob")))[0] == 403
    assert call(relay, "/events?task=t", bearer(token({"owned": True}, sub="bob")))[0] == 403
    publish_owned(shared_redis, "t", ["team"], n=2)
    assert ann.receive() == {"type": "error", "code": "forbidden", "message": FORBIDDEN, "task_id": "t"}
    bob.send({"type": "subscribe", "task_id": "t"})
    assert bob.receive()["type"] == "subscribed"
    assert bob.receive()["data"] == {"n": 2}
    shared_redis.publish_task("t", n=3)
    assert bob.receive()["data"] == {"n": 3}
    ann.send({"type": "ping"})
    assert ann.receive()["type"] == "pong", "the former owner received nothing more"


def test_another_token_on_the_same_connection_keeps_what_it_covers(
    shared_redis: RedisServer, share_relay: StartRelay
) -> None:
    relay = share_relay(**SETTINGS)
    client = authenticated(relay, token({"tasks": ["a", "b"], "general": True}))
    client.subscribe("a")
    client.subscribe("b")
    client.send({"type": "authenticate", "token": token({"tasks": ["b", "c"]})})
    ended = [client.receive(), client.receive()]
    assert sorted((error["code"], error.get("task_id", error.get("channel"))) for error in ended) == [
        ("forbidden", "a"),
        ("forbidden", "general"),
    ]
    assert client.receive()["type"] == "authenticated"
    shared_redis.publish_general(n=1)
    shared_redis.publish_task("a", n=1)
    shared_redis.publish_task("b", n=1)
    assert client.receive() == {"type": "task_update", "task_id": "b", "data": {"n": 1}}
    client.send({"type": "authenticate", "token": "no token"})
    assert client.receive()["code"] == "bad_token"
    client.subscribe("c")  # the former grant lasts


def test_a_grant_ends_with_a_notice_and_in_time(share_relay: StartRelay) -> None:
    relay = share_relay(**SETTINGS)
    ends = time.time() + 3
    client = authenticated(relay, token(DEMO, exp=ends))
    notice = client.receive()
    assert notice["type"] == "token_expires"
    assert 0 < notice["seconds"] <= 3
    assert close_code(client) == ([], 4401)
    assert ends <= time.time() < ends + 1 + PATIENCE / 60


def test_event_streams_end_with_the_grant(share_relay: StartRelay) -> None:
    relay = share_relay(**SETTINGS)
    request = urllib.request.Request(
        f"http://127.0.0.1:{relay.port}/events?task=demo", headers=bearer(token(DEMO, seconds=2))
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as stream:
        assert b"event: token_expires" in stream.read()


REFUSED = {
    "nothing but a ping": ({"type": "ping"}, 4401),
    "a subscribe first": ({"type": "subscribe", "task_id": "demo"}, 4401),
    "expired": ({"type": "authenticate", "token": token(seconds=-1)}, 4401),
    "another secret": ({"type": "authenticate", "token": token()[:-2] + "AA"}, 4403),
    "no token": ({"type": "authenticate", "token": "x"}, 4403),
    "no API key": ({"type": "authenticate", "token": "relay_x"}, 4403),
}


@pytest.mark.parametrize("case", REFUSED)
def test_nothing_is_served_before_a_token_holds(case: str, shared_redis: RedisServer, share_relay: StartRelay) -> None:
    relay = share_relay(**SETTINGS)
    message, code = REFUSED[case]
    good = authenticated(relay, token(DEMO))
    client = client_of(relay)
    shared_redis.publish_general(n=1)
    client.send(message)
    messages, closed = close_code(client)
    assert closed == code
    assert [each["type"] for each in messages] in (["error"], [])
    assert good.receive()["data"] == {"n": 1}


def test_who_shows_no_token_has_as_long_as_a_handshake(start_relay: StartRelay) -> None:
    relay = start_relay(**SETTINGS, handshake_timeout=1)
    assert close_code(client_of(relay)) == ([], 4401)


def test_a_token_comes_as_a_header_or_a_cookie_but_never_in_the_url(
    shared_redis: RedisServer, share_relay: StartRelay
) -> None:
    relay = share_relay(**SETTINGS)
    text = token(DEMO)
    host = f"127.0.0.1:{relay.port}"
    cookie = {"Cookie": f"other=1; __Host-relay={text}"}
    for headers in (
        bearer(text),
        cookie,
        cookie | {"Origin": f"https://{host}"},
        cookie | {"Origin": f"http://{host}"},
    ):
        client = client_of(relay, additional_headers=headers)
        client.subscribe("demo")
    for headers in (bearer(text), cookie):
        assert call(relay, "/api/tasks/demo", headers) == (
            404,
            {"code": "unknown_task", "message": "no such task, or it ended long ago"},
        )
    for path in ("/api/tasks/demo?token=x", f"/events?task=demo&x={text}", f"/api/tasks/demo?ticket={text}"):
        status, error = call(relay, path)
        assert (status, error["code"]) == (400, "token_in_url")
    assert call(relay, "/api/tasks/demo")[0] == 401
    assert call(relay, "/api/tasks/demo", bearer(token()))[0] == 403
    assert call(relay, "/api/tasks/demo", {**cookie, "Origin": "https://evil.example"})[0] == 403
    assert relay.get("/healthz")[0] == 200


FOREIGN = [
    "https://evil.example",
    "null",
    "https://127.0.0.1:1",
    "HTTPS://EVIL.EXAMPLE",
    "https://127.0.0.1.evil.example",
]


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_foreign_page_cannot_use_the_cookie(origin: str, share_relay: StartRelay) -> None:
    relay = share_relay(**SETTINGS)
    headers = {"Cookie": f"__Host-relay={token(DEMO)}", "Origin": origin}
    with pytest.raises(Exception, match="403"):
        client_of(relay, additional_headers=headers)
    assert call(relay, "/events?task=demo", headers)[0] == 403


def test_a_ticket_lets_in_once(share_relay: StartRelay) -> None:
    relay = share_relay(**SETTINGS)
    status, answer = call(relay, "/api/ticket", bearer(token(DEMO)), "POST")
    assert (status, answer["expires_in"]) == (201, 30)
    for number in range(2):
        client = opened(f"{relay.url}?ticket={answer['ticket']}")
        if number == 0:
            client.subscribe("demo")
        else:
            assert close_code(client)[1] == 4401
    assert call(relay, "/events?task=demo&ticket=wrong")[0] == 401
    assert call(relay, "/api/ticket", method="POST")[0] == 401


def test_clients_without_a_token_have_the_anonymous_grant(shared_redis: RedisServer, share_relay: StartRelay) -> None:
    relay = share_relay(**SETTINGS, anonymous="watch:prefix:public/ list:prefix:public/")
    client = client_of(relay)
    client.subscribe("public/1")
    client.send({"type": "subscribe", "task_id": "private/1"})
    assert client.receive()["code"] == "forbidden"
    client.send({"type": "authenticate", "token": token({"prefixes": ["public/", "private/"]})})
    assert client.receive()["type"] == "authenticated"
    client.subscribe("private/1")
    for task_id in ("public/1", "private/1"):
        shared_redis.publish_task(task_id, n=1)
        assert client.receive()["task_id"] == task_id
    eventually(lambda: call(relay, "/api/tasks")[1]["tasks"])
    assert [task["task_id"] for task in call(relay, "/api/tasks")[1]["tasks"]] == ["public/1"]
    assert call(relay, "/api/tasks/public%2F1/heartbeat", method="POST")[0] == 403, "to watch is not to publish"


def test_without_configuration_a_token_changes_nothing(share_relay: StartRelay) -> None:
    relay = share_relay()
    client = client_of(relay, "whatever")
    assert client.receive() == {"type": "authenticated"}
    client.subscribe("demo")


def by_other_protocols(relay: RelayServer, text: str) -> str:
    """What a token brings by Mercure, and by the Centrifuge protocol, whose SDKs have it in the URL of an event stream."""
    seen = str(call(relay, "/.well-known/mercure?topic=task:else", {"Cookie": f"mercureAuthorization={text}"}))
    seen += str(call(relay, f"/.well-known/mercure?topic=general&authorization={text}"))
    first = json.dumps({"id": 1, "connect": {"token": text}})
    with connect(f"ws://127.0.0.1:{relay.port}/connection/websocket", open_timeout=PATIENCE) as connection:
        connection.send(first)
        with suppress(ConnectionClosed):
            seen += str(connection.recv(PATIENCE))
            connection.send(json.dumps({"id": 2, "subscribe": {"channel": "task:demo", "token": text}}))
            seen += str(connection.recv(PATIENCE))
    url = f"http://127.0.0.1:{relay.port}/connection/sse?cf_connect={quote(first)}"
    with urllib.request.urlopen(url, timeout=PATIENCE) as stream:
        return seen + str([stream.readline() for _ in range(3)])


def test_tokens_appear_nowhere(share_relay: StartRelay, shared_redis: RedisServer) -> None:
    relay = share_relay(**SETTINGS, log_level="DEBUG")
    good, bad = token(DEMO, seconds=2), token(seconds=-1)
    forged = good[:-3] + "AAA"
    seen = ""
    for text in (good, bad, forged):
        headers = [bearer(text), {"Cookie": f"__Host-relay={text}"}, {"X-API-Key": text}]
        for each in headers:
            seen += str(call(relay, "/api/tasks/demo", each)) + str(call(relay, "/api/ticket", each, "POST")[0])
        seen += by_other_protocols(relay, text)
        seen += str(call(relay, f"/api/tasks?token={text}")) + str(call(relay, f"/events?task=a&ticket={text}"))
        for options in ({}, {"additional_headers": bearer(text)}):
            client = client_of(relay, text, **options)
            seen += str(close_code(client))
        client = client_of(relay)
        client.connection.send(f'{{"type":"authenticate","token":"{text}')
        client.connection.send(f'{{"type":"{text}"}}')
        seen += str(close_code(client))
    everything = seen + relay.logged() + relay.get("/metrics")[1]
    with shared_redis.client() as redis:
        everything += str([(name, redis.type(name)) for name in redis.keys("*")])
    for secret in (SECRET, *(part for text in (good, bad, forged) for part in text.split(".")[1:])):
        assert secret not in everything


def test_the_status_is_for_operators(share_relay: StartRelay) -> None:
    relay = share_relay(**SETTINGS)
    operator = token({"all": True}, relay={"watch": {"all": True}, "list": {"all": True}})
    for path in ("/status", "/api/status"):
        assert call(relay, path)[0] == 401
        for short in (token({"all": True}), token({"general": True}), token(relay={"list": {"all": True}})):
            assert call(relay, path, bearer(short))[0] == 403
        status, answer = call(relay, path, bearer(operator))
        assert (status, answer["needs_grants"]) == (200, True)
    shown = commands.run("status", "--token", "-", "--json", stdin=f"{operator}\n", RELAY_URL=relay.url)
    assert (shown.returncode, shown.stderr) == (0, "")
    for given, complaint in (((), "asks for a token"), (("--token", token()), "refuses this grant")):
        refused = commands.run("status", *given, RELAY_URL=relay.url)
        assert (refused.returncode, refused.stderr.count("\n")) == (6, 1)
        assert complaint in refused.stderr
