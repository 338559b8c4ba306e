"""Where grants come from, and how they end, on real relays: revocations, keys at a URL, and a backend that is asked."""

import json
import subprocess
import sys
import time
from threading import Event
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from relay_wire import keys
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.conftest import StartRelay
from tests.harness import PATIENCE, Client, RedisServer, eventually
from tests.integration.auth.backend import backend
from tests.integration.auth.tokens import SETTINGS, bearer, call, token

GRANT = {"relay": {"watch": {"tasks": ["demo"]}}}
CREATED = (404, {"code": "unknown_task", "message": "no such task, or it ended long ago"})


def closed_with(client: Client) -> int:
    try:
        while True:
            client.receive()
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd is not None else 1006


def test_a_revoked_subject_is_gone_from_all_relays(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relays = [start_relay(**SETTINGS), start_relay(**SETTINGS)]
    revoked = token({"tasks": ["demo"]}, sub="ann", jti="1")
    other = token({"tasks": ["demo"]}, sub="bob", jti="2")
    command = [sys.executable, "-m", "relay.cli", "revoke", "--redis-url", redis_server.url]
    with (
        connect(relays[0].url, additional_headers=bearer(revoked), open_timeout=PATIENCE) as first,
        connect(relays[1].url, additional_headers=bearer(revoked), open_timeout=PATIENCE) as second,
        connect(relays[1].url, additional_headers=bearer(other), open_timeout=PATIENCE) as good,
    ):
        for connection in (first, second, good):
            Client(connection).subscribe("demo")
        subprocess.run([*command, "--sub", "ann"], check=True, timeout=PATIENCE)
        assert [closed_with(Client(connection)) for connection in (first, second)] == [4403, 4403]
        for relay in relays:
            assert call(relay, "/api/tasks/demo", bearer(revoked))[1]["code"] == "token_revoked"
            assert call(relay, "/api/tasks/demo", bearer(other)) == CREATED
        # Who logs in again is let in.
        again = token({"tasks": ["demo"]}, sub="ann", iat=time.time() + 1)
        assert call(relays[0], "/api/tasks/demo", bearer(again)) == CREATED
        # A relay whose connection to Redis broke reads what it missed.
        redis_server.freeze()
        eventually(lambda: not relays[1].is_ready())
        redis_server.thaw()
        with redis_server.client() as redis:
            redis.zadd(keys.REVOCATIONS, {f"jti {time.time()} 2": time.time() + 100})
            redis.client_kill_filter(_type="pubsub")
        assert closed_with(Client(good)) == 4403
        with redis_server.client() as redis:
            assert 0 < redis.ttl(keys.REVOCATIONS) <= 7 * 86_400


def test_services_revoke_with_a_scope_of_their_own(share_relay: StartRelay) -> None:
    relay = share_relay(**SETTINGS)
    may = bearer(token(relay={"revoke": {"all": True}}))
    assert call(relay, "/api/revoke", bearer(token()), "POST", {"sub": "eve"})[0] == 403
    malformed: list[Any] = [{"sub": 1}, {"sub": "a", "seconds": -1}, [], {"sub": ""}, {"jti": "x" * 256}, {"name": "a"}]
    for wrong in malformed:
        assert call(relay, "/api/revoke", may, "POST", wrong)[0] == 400, wrong
    for many in (
        {},
        {"sub": "a", "jti": "b"},
        {"jti": "a", "token": "b"},
        {"token": "b", "seconds": 1},
        {"token": "b"},
    ):
        assert call(relay, "/api/revoke", may, "POST", many)[0] == 422, many
    victim = token({"tasks": ["demo"]}, sub="eve")
    assert call(relay, "/api/tasks/demo", bearer(victim)) == CREATED
    assert call(relay, "/api/revoke", may, "POST", {"sub": "eve", "seconds": 60})[0] == 200
    eventually(lambda: call(relay, "/api/tasks/demo", bearer(victim))[0] == 401)


class Signer:
    """A key of an identity provider."""

    def __init__(self, kid: str) -> None:
        self.kid = kid
        self._key = ec.generate_private_key(ec.SECP256R1())

    @property
    def jwk(self) -> dict[str, Any]:
        return {**json.loads(ECAlgorithm.to_jwk(self._key.public_key())), "kid": self.kid, "alg": "ES256"}

    def token(self) -> str:
        claims = {**GRANT, "exp": time.time() + 60}
        return jwt.encode(claims, self._key, "ES256", headers={"kid": self.kid})


def test_keys_of_a_url_change_without_a_good_token_refused(start_relay: StartRelay) -> None:
    first, second, stranger = Signer("1"), Signer("2"), Signer("3")
    with backend() as provider:
        provider.answer = lambda _: (200, {"keys": [first.jwk]})
        relay = start_relay(jwks_url=provider.url)
        assert call(relay, "/api/tasks/demo", bearer(first.token())) == CREATED
        provider.answer = lambda _: (200, {"keys": [first.jwk, second.jwk]})
        with connect(relay.url, open_timeout=PATIENCE) as connection:
            client = Client(connection)
            client.send({"type": "authenticate", "token": second.token()})
            assert client.receive()["type"] == "authenticated", "the new key was fetched for it"
        before = provider.requests
        with connect(relay.url, open_timeout=PATIENCE) as connection:
            client = Client(connection)
            client.send({"type": "authenticate", "token": stranger.token()})
            assert client.receive()["code"] == "unknown_key"
            assert closed_with(client) == 4403
        assert provider.requests <= before + 1
        answers: list[tuple[int, Any]] = [(500, None), (200, b"{"), (200, {"keys": []}), (200, b"x" * 300_000)]
        for garbage in answers:
            provider.answer = lambda _, garbage=garbage: garbage  # type: ignore[misc]
            status, _ = call(relay, "/api/tasks/demo", bearer(stranger.token()))
            assert status == 503, "it may be known to the server that cannot be read now"
            assert call(relay, "/api/tasks/demo", bearer(second.token())) == CREATED, "the keys that are known stay"
        answering = Event()
        provider.answer = lambda _: (answering.wait(PATIENCE), (200, {"keys": [second.jwk]}))[1]
        try:
            assert call(relay, "/api/tasks/demo", bearer(stranger.token()))[0] == 503, (
                "who waits for it waits for seconds"
            )
            assert call(relay, "/api/tasks/demo", bearer(second.token())) == CREATED, "and nobody else waits"
        finally:
            answering.set()
    assert call(relay, "/api/tasks/demo", bearer(stranger.token()))[0] in (401, 503)
    assert call(relay, "/api/tasks/demo", bearer(second.token())) == CREATED, "the server is down"


def _by_session(headers: Any) -> tuple[int, Any]:
    if headers["cookie"] == "session=ann":
        return 200, {**GRANT, "sub": "ann", "expires_in": 600}
    return (403, None) if headers["cookie"] == "session=banned" else (401, None)


def test_a_backend_is_asked(start_relay: StartRelay) -> None:
    with backend() as asked:
        asked.answer = _by_session
        relay = start_relay(authorize_url=asked.url, authorize_timeout=1)
        for _ in range(3):
            assert call(relay, "/api/tasks/demo", {"Cookie": "session=ann"}) == CREATED
        assert asked.requests == 1, "the answer is remembered for a while"
        assert call(relay, "/api/tasks/other", {"Cookie": "session=ann"})[0] == 403
        assert call(relay, "/api/tasks/demo", {"Cookie": "session=x"})[0] == 401
        assert call(relay, "/api/tasks/demo", {"Cookie": "session=ann", "Origin": "https://evil.example"})[0] == 403
        for cookie, code in (("session=banned", 4403), ("session=x", 4401)):
            with connect(relay.url, additional_headers={"Cookie": cookie}, open_timeout=PATIENCE) as connection:
                assert closed_with(Client(connection)) == code
        with connect(relay.url, additional_headers={"Cookie": "session=ann"}, open_timeout=PATIENCE) as connection:
            Client(connection).subscribe("demo")


@pytest.mark.parametrize("garbage", [(500, None), (200, b"<html>"), (200, {"relay": 1}), (200, b"x" * 100_000)])
def test_a_backend_that_fails_lets_nobody_in_and_is_left_alone(garbage: Any, start_relay: StartRelay) -> None:
    with backend() as asked:
        asked.answer = lambda _: garbage
        relay = start_relay(authorize_url=asked.url)
        for number in range(20):
            status, error = call(relay, "/api/tasks/demo", {"Cookie": f"session={number}"})
            assert (status, error["code"]) == (503, "unverified")
        assert asked.requests < 10
        with connect(relay.url, additional_headers={"Cookie": "session=ann"}, open_timeout=PATIENCE) as connection:
            assert closed_with(Client(connection)) == 1013
        asked.answer = _by_session
        eventually(lambda: call(relay, "/api/tasks/demo", {"Cookie": "session=ann"}) == CREATED)


def test_a_slow_backend_holds_nobody_up_beyond_its_deadline(start_relay: StartRelay) -> None:
    def slow(_: Any) -> tuple[int, Any]:
        time.sleep(2)
        return 200, GRANT

    with backend() as asked:
        asked.answer = slow
        relay = start_relay(authorize_url=asked.url, authorize_timeout=0.3)
        assert call(relay, "/api/tasks/demo", {"Cookie": "session=ann"})[0] == 503
        assert relay.get("/readyz")[0] == 200
    assert call(relay, "/api/tasks/demo", {"Cookie": "session=bob"})[0] == 503, "it is down"
