"""The keys that tokens are verified with: a secret, PEM files, and JWKS (RFC 7517).

The kind of a key says which algorithms it is used with, never a token: so nobody can have a public key taken for a secret.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate
from jwt.algorithms import get_default_algorithms
from jwt.exceptions import InvalidKeyError

from relay.core.json_errors import NOT_JSON
from relay.grant_settings import MIN_SECRET

#: Most keys of one file or URL: a token without a `kid` is tried with each.
MAX_KEYS = 32

#: Shortest RSA key, in bits (RFC 7518 section 3.3).
_MIN_RSA = 2048

_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)

#: By the member `kty` of a JWK: an algorithm of PyJWT whose keys are read in the same way.
_READERS = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA", "oct": "HS256"}


class TokenKey(NamedTuple):
    """A key for verifying tokens.

    Attributes:
        key: The key, as PyJWT takes it.
        algorithms: The algorithms that it is used with.
        kid: The name by which a token may ask for it.
    """

    key: Any
    algorithms: tuple[str, ...]
    kid: str | None = None


class BadKey(ValueError):
    """A key cannot be used. The message says why, and has nothing of the key in it."""


def algorithms_of(key: Any) -> tuple[str, ...]:
    """Return the algorithms that a key is used with.

    Raises:
        BadKey: It is too short, private, or of an unknown kind.
    """
    match key:
        case bytes():
            if len(key) < MIN_SECRET:
                raise BadKey(f"a secret for HS256 must have at least {MIN_SECRET} bytes")
            try:
                get_default_algorithms()["HS256"].prepare_key(key)
            except InvalidKeyError:
                raise BadKey(
                    "a secret for HS256 must not be a key in PEM or of SSH, whose public half others know"
                ) from None
            return ("HS256",)
        case RSAPublicKey():
            if key.key_size < _MIN_RSA:
                raise BadKey(f"an RSA key must have at least {_MIN_RSA} bits")
            return ("RS256", "PS256")
        case EllipticCurvePublicKey() if isinstance(key.curve, SECP256R1):
            return ("ES256",)
        case Ed25519PublicKey():
            return ("EdDSA",)
        case _:
            raise BadKey("a key must be a public one: RSA, EC on P-256, or Ed25519")


def read_pem(text: str) -> list[TokenKey]:
    """Read the public keys and certificates of a PEM file.

    Raises:
        BadKey: One cannot be used, or there is none.
    """
    keys = []
    for block in _PEM.finditer(text):
        if "PRIVATE" in block[1]:
            raise BadKey(
                "the file has a private key, which only those who sign tokens should have; give the public one"
            )
        data = block[0].encode()
        try:
            key = (
                load_pem_x509_certificate(data).public_key() if block[1] == "CERTIFICATE" else load_pem_public_key(data)
            )
        except (ValueError, UnsupportedAlgorithm) as error:
            raise BadKey(f"a key cannot be read: {error}") from None
        keys.append(TokenKey(key, algorithms_of(key)))
    if not keys:
        raise BadKey("the file has no key in PEM, and is no JWKS either")
    return keys


def read_jwk(jwk: Any) -> TokenKey:
    """Read one key of a JWKS.

    Raises:
        BadKey: It cannot be used.
    """
    if not isinstance(jwk, dict):
        raise BadKey("a key of the JWKS is no object")
    if jwk.get("use") not in (None, "sig"):
        raise BadKey("a key of the JWKS is not for signatures")
    name = _READERS.get(str(jwk.get("kty")))
    if name is None:
        raise BadKey("a key of the JWKS has an unknown `kty`")
    if name != "HS256" and "d" in jwk:
        raise BadKey("a key of the JWKS is a private one, which only those who sign tokens should have")
    try:
        key = get_default_algorithms()[name].from_jwk(jwk)
    except (InvalidKeyError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadKey(f"a key of the JWKS cannot be read: {type(error).__name__}") from None
    algorithms = algorithms_of(key)
    if "alg" in jwk:
        algorithms = tuple(algorithm for algorithm in algorithms if algorithm == jwk["alg"])
    kid = jwk.get("kid")
    return TokenKey(key, algorithms, kid if isinstance(kid, str) else None)


def _members(data: bytes) -> list[Any]:
    try:
        members = msgspec.json.decode(data, type=dict[str, Any])["keys"]
    except (*NOT_JSON, KeyError):
        raise BadKey("it is no JWKS, which is a JSON object with `keys`") from None
    if not isinstance(members, list) or len(members) > MAX_KEYS:
        raise BadKey(f"`keys` must be a list of {MAX_KEYS} keys at most")
    return members


def read_public_jwks(data: bytes) -> list[TokenKey]:
    """Read the JWKS that a URL answers with. Keys that cannot be used are left out, as RFC 7517 section 5 says; so are secrets.

    Raises:
        BadKey: It is no JWKS, or has no key that can be used.
    """
    keys = []
    for member in _members(data):
        try:
            key = read_jwk(member)
        except BadKey:
            continue
        if "HS256" not in key.algorithms:
            keys.append(key)
    if not keys:
        raise BadKey("it has no key that can be used")
    return keys


def read_key_file(path: Path) -> list[TokenKey]:
    """Read the keys of a file, in PEM or as a JWKS.

    Raises:
        BadKey: One of them cannot be used, or there is none.
        OSError: The file cannot be read.
    """
    data = path.read_bytes()
    if data.lstrip().startswith(b"{"):
        return [read_jwk(member) for member in _members(data)]
    return read_pem(data.decode("utf-8", "replace"))


def limited(keys: Iterable[TokenKey], algorithms: Sequence[str]) -> list[TokenKey]:
    """Return keys with only some of their algorithms, without those that are left with none."""
    limited_keys = []
    for key in keys:
        allowed = tuple(algorithm for algorithm in key.algorithms if algorithm in algorithms)
        if allowed:
            limited_keys.append(key._replace(algorithms=allowed))
    return limited_keys
