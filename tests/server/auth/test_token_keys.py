"""Keys from files and URLs: which are taken, and which mistakes are named."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwt.algorithms import ECAlgorithm, HMACAlgorithm

from relay.server.auth.token_keys import BadKey, algorithms_of, read_key_file, read_pem, read_public_jwks

PRIVATE = ec.generate_private_key(ec.SECP256R1())
PUBLIC_JWK: dict[str, Any] = json.loads(ECAlgorithm.to_jwk(PRIVATE.public_key()))
SECRET_JWK: dict[str, Any] = json.loads(HMACAlgorithm.to_jwk(b"s" * 32))


def jwks(*keys: Any) -> bytes:
    return json.dumps({"keys": keys}).encode()


def test_a_file_may_have_secrets_and_a_url_may_not(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(jwks(PUBLIC_JWK | {"kid": "a"}, SECRET_JWK))
    assert [(key.kid, key.algorithms) for key in read_key_file(path)] == [("a", ("ES256",)), (None, ("HS256",))]
    assert [key.algorithms for key in read_public_jwks(path.read_bytes())] == [("ES256",)]
    with pytest.raises(BadKey):
        read_public_jwks(jwks(SECRET_JWK))


def test_a_url_may_have_keys_for_others(tmp_path: Path) -> None:
    others = [{"kty": "new"}, PUBLIC_JWK | {"use": "enc"}, json.loads(ECAlgorithm.to_jwk(PRIVATE)), 7, {"kty": "RSA"}]
    assert len(read_public_jwks(jwks(*others, PUBLIC_JWK))) == 1
    assert read_public_jwks(jwks(PUBLIC_JWK | {"alg": "ES256"}))[0].algorithms == ("ES256",)
    assert read_public_jwks(jwks(PUBLIC_JWK | {"alg": "HS256"}))[0].algorithms == ()


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b'{"keys":7}', b'{"keys":[{"kid":"\xff"}]}', jwks(*[PUBLIC_JWK] * 33), jwks()]
)
def test_what_is_no_jwks(data: bytes) -> None:
    with pytest.raises(BadKey):
        read_public_jwks(data)


def test_private_short_and_odd_keys_are_refused() -> None:
    pem = PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with pytest.raises(BadKey, match="private key"):
        read_pem(pem)
    with pytest.raises(BadKey, match="2048 bits"):
        algorithms_of(rsa.generate_private_key(65537, 1024).public_key())
    with pytest.raises(BadKey, match="P-256"):
        algorithms_of(ec.generate_private_key(ec.SECP384R1()).public_key())
    with pytest.raises(BadKey, match="32 bytes"):
        algorithms_of(b"short")
    with pytest.raises(BadKey, match="PEM"):
        algorithms_of(pem.encode())
    with pytest.raises(BadKey):
        read_pem("nothing")
