"""What is no good token is refused as documented by each way in, and a good client beside it is not disturbed."""

import hmac
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm
from jwt.utils import base64url_encode
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.conftest import StartRelay
from tests.harness import PATIENCE, Client, RedisServer, RelayServer
from tests.integration.auth.tokens import bearer, call

KEY = rsa.generate_private_key(65537, 2048)
OTHER_KEY = rsa.generate_private_key(65537, 2048)


def signed(key: rsa.RSAPrivateKey = KEY, kid: str = "1", **claims: Any) -> str:
    """A token for the relay of this page; claims win over what is usual."""
    usual = {"aud": "relay", "exp": time.time() + 600, "relay": {"watch": {"tasks": ["demo"]}}}
    return jwt.encode(usual | claims, key, "RS256", {"kid": kid})


def forged(algorithm: str, secret: bytes | None) -> str:
    """A token with the same claims that is signed with a secret, or not at all."""
    payload = signed().split(".")[1].encode()
    head = base64url_encode(json.dumps({"alg": algorithm, "typ": "JWT", "kid": "1"}).encode()) + b"." + payload
    signature = b"" if secret is None else base64url_encode(hmac.digest(secret, head, "sha256"))
    return (head + b"." + signature).decode()


def public(encoding: Encoding) -> bytes:
    return KEY.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)


#: Each with the code of the error, and the close code of `/ws/tasks`.
REFUSED: dict[str, tuple[str, str, int]] = {
    "expired": (signed(exp=time.time() - 60), "token_expired", 4401),
    "not yet valid": (signed(nbf=time.time() + 6000), "token_not_yet_valid", 4401),
    "alg none": (forged("none", None), "bad_algorithm", 4403),
    "HS256, signed with the public key in PEM": (forged("HS256", public(Encoding.PEM)), "bad_algorithm", 4403),
    "HS256, signed with the public key in DER": (forged("HS256", public(Encoding.DER)), "bad_algorithm", 4403),
    "RS256, without a signature": (forged("RS256", None), "bad_signature", 4403),
    "another key": (signed(OTHER_KEY), "bad_signature", 4403),
    "wrong audience": (signed(aud="another"), "wrong_audience", 4403),
    "unknown kid": (signed(kid="2"), "unknown_key", 4403),
    "another task": (signed(relay={"watch": {"tasks": ["demo2"]}}), "forbidden", 0),
}


@pytest.fixture
def relay(share_relay: StartRelay, tmp_path: Path) -> RelayServer:
    jwk = {**json.loads(RSAAlgorithm.to_jwk(KEY.public_key())), "kid": "1"}
    (tmp_path / "keys").write_text(json.dumps({"keys": [jwk]}))
    return share_relay(jwt_keys=tmp_path / "keys", jwt_audience="relay")


def answers(relay: RelayServer, text: str) -> list[Any]:
    """What a token brings by each way in: codes of errors, and of what ends a connection."""
    found: list[Any] = []
    for path in (
        "/api/tasks/demo",
        "/api/tasks/demo/history",
        "/events?task=demo",
        "/.well-known/mercure?topic=task:demo",
    ):
        status, body = call(relay, path, bearer(text))
        found.append((status, body["code"]))
    with connect(relay.url, open_timeout=PATIENCE) as connection:
        client = Client(connection)
        client.send({"type": "authenticate", "token": text})
        with suppress(ConnectionClosed):
            client.send({"type": "subscribe", "task_id": "demo"})
        try:
            while (message := client.receive())["type"] != "error":
                assert message["type"] == "authenticated", message
            found.append(message["code"])
            client.receive(0.001 if message["code"] == "forbidden" else PATIENCE)
        except TimeoutError:
            found.append(0)
        except ConnectionClosed as closed:
            found.append(closed.rcvd and closed.rcvd.code)
    url = f"ws://127.0.0.1:{relay.port}/connection/websocket"
    with connect(url, open_timeout=PATIENCE) as connection:
        client = Client(connection)
        client.send({"id": 1, "connect": {"token": text}})
        try:
            answer = client.receive()
            if "connect" in answer:
                client.send({"id": 2, "subscribe": {"channel": "task:demo"}})
                answer = client.receive()
            found.append(answer["error"]["code"])
        except ConnectionClosed as closed:
            found.append(closed.rcvd and closed.rcvd.code)
    return found


def test_by_each_way_in(relay: RelayServer, shared_redis: RedisServer) -> None:
    with connect(relay.url, additional_headers=bearer(signed()), open_timeout=PATIENCE) as connection:
        good = Client(connection)
        good.subscribe("demo")
        for number, (case, (text, code, close)) in enumerate(REFUSED.items()):
            status = 403 if code == "forbidden" else 401
            centrifuge = {"forbidden": 103, "token_expired": 109, "token_not_yet_valid": 109}.get(code, 3500)
            assert answers(relay, text) == [*[(status, code)] * 4, code, close, centrifuge], case
            shared_redis.publish_task("demo", n=number)
            assert good.receive()["data"] == {"n": number}, case
