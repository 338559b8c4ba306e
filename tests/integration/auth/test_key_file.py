"""Keys in a file are replaced without a restart, and a file that cannot be used replaces none."""

import json
import time
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.utils import base64url_encode

from tests.conftest import StartRelay
from tests.harness import eventually
from tests.integration.auth.tokens import SECRET, bearer, call, token

CLAIMS = {"relay": {"watch": {"tasks": ["demo"]}}}
NO_TASK = 404  # what who may watch a task gets as long as there is none


def signed(key: ed25519.Ed25519PrivateKey) -> str:
    return jwt.encode({**CLAIMS, "exp": time.time() + 600}, key, "EdDSA")


def pem(*keys: ed25519.Ed25519PrivateKey) -> str:
    return "".join(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode() for key in keys
    )


def test_keys_of_a_file_change_while_the_relay_runs(start_relay: StartRelay, tmp_path: Path) -> None:
    path, first, second = tmp_path / "keys", ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()

    def replace(text: str) -> None:
        new = tmp_path / "new"
        new.write_text(text)
        new.replace(path)

    replace(pem(first))
    relay = start_relay(jwt_keys=path, jwt_algorithms="EdDSA,HS256")

    def status(text: str) -> int:
        return call(relay, "/api/tasks/demo", bearer(text))[0]

    old, new = signed(first), signed(second)
    assert (status(old), status(new)) == (NO_TASK, 401)
    replace(pem(first, second))
    eventually(lambda: status(new) == NO_TASK)
    assert status(old) == NO_TASK
    for number, unusable in enumerate(("nothing", '{"keys":[]}', pem(first)[:60]), 1):
        replace(unusable)
        eventually(lambda number=number: relay.logged().count("the former keys stay") == number)  # type: ignore[misc]
        assert status(old) == status(new) == NO_TASK
    path.unlink()
    eventually(lambda: "No such file" in relay.logged())
    assert status(new) == NO_TASK
    # A secret in a JWKS, in place of both.
    secret = base64url_encode(SECRET.encode()).decode()
    replace(json.dumps({"keys": [{"kty": "oct", "k": secret}]}))
    eventually(lambda: status(token({"tasks": ["demo"]})) == NO_TASK)
    assert (status(old), status(new)) == (401, 401)
    assert relay.logged().count("the former keys stay") == 4, "one line for each change"
    assert secret not in relay.logged()
