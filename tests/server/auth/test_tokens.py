"""Tokens: which hold, and how each of the others is refused."""

import base64
import hmac
import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from relay.core.closecodes import Close
from relay.core.errors import Unauthenticated
from relay.core.grants import Decision, Verb
from relay.server.auth import tokens
from relay.server.auth.token_form import looks_like_token
from relay.server.auth.token_keys import TokenKey, algorithms_of, limited, read_pem
from relay.server.auth.tokens import TokenRules, TokenVerifier

NOW = 1e9
SECRET = b"s" * 32
RULES = TokenRules(issuer=None, audience=(), leeway=5, requires_exp=True)
RSA_KEY = rsa.generate_private_key(65537, 2048)
PRIVATE: dict[str, Any] = {
    "HS256": SECRET,
    "RS256": RSA_KEY,
    "PS256": RSA_KEY,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
CLAIMS: dict[str, Any] = {"relay": {"watch": {"tasks": ["demo"]}}, "exp": NOW + 60}


def public(key: Any) -> Any:
    return key if isinstance(key, bytes) else key.public_key()


def key_of(algorithm: str, kid: str | None = None) -> TokenKey:
    key = public(PRIVATE[algorithm])
    return TokenKey(key, algorithms_of(key), kid)


def verifier(*keys: TokenKey, rules: TokenRules = RULES, now: Callable[[], float] = lambda: NOW) -> TokenVerifier:
    return TokenVerifier(lambda: keys, rules, now)


def token(algorithm: str = "HS256", headers: Any = None, **claims: Any) -> str:
    everything = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
    return jwt.encode(everything, PRIVATE[algorithm], algorithm, headers)


def unsigned(header: dict[str, Any], claims: dict[str, Any] = CLAIMS, signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


@pytest.mark.parametrize("algorithm", PRIVATE)
def test_a_token_of_each_algorithm_holds(algorithm: str) -> None:
    grant = verifier(key_of(algorithm)).verify(token(algorithm, sub="user:7", jti="x", iat=NOW))
    assert grant.decide(Verb.WATCH, "task:demo") is Decision.ALLOWED
    assert grant.decide(Verb.WATCH, "task:demo2") is Decision.DENIED
    assert (grant.subject, grant.token_id, grant.issued_at, grant.expires_at) == ("user:7", "x", NOW, NOW + 60)


@pytest.mark.parametrize("algorithm", PRIVATE)
def test_a_key_is_used_with_its_own_algorithms_only(algorithm: str) -> None:
    for other in PRIVATE:
        if other not in key_of(algorithm).algorithms:
            with pytest.raises(Unauthenticated, match="algorithm"):
                verifier(key_of(algorithm)).verify(token(other))


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_a_public_key_is_no_secret(encoding: Encoding) -> None:
    """The classic: HS256, signed with the public key that everybody knows."""
    known = RSA_KEY.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
    signed = unsigned({"alg": "HS256", "typ": "JWT"}).rstrip(".")
    mac = hmac.digest(known, signed.encode(), sha256)
    forged = signed + "." + base64.urlsafe_b64encode(mac).rstrip(b"=").decode()
    for keys in ([key_of("RS256")], [key_of("RS256"), key_of("HS256")]):
        with pytest.raises(Unauthenticated):
            verifier(*keys).verify(forged)


def expired(seconds: float) -> dict[str, Any]:
    return {"exp": NOW - seconds}


REFUSED: dict[str, tuple[str, str, Close]] = {
    "expired": (token(exp=NOW), "token_expired", Close.TOKEN_EXPIRED),
    "not yet valid": (token(nbf=NOW + 6), "token_not_yet_valid", Close.UNAUTHENTICATED),
    "issued in the future": (token(iat=NOW + 6), "token_not_yet_valid", Close.UNAUTHENTICATED),
    "alg none": (unsigned({"alg": "none"}), "bad_algorithm", Close.INVALID_TOKEN),
    "alg None": (unsigned({"alg": "None"}), "bad_algorithm", Close.INVALID_TOKEN),
    "alg missing": (unsigned({}), "bad_algorithm", Close.INVALID_TOKEN),
    "alg of another type": (unsigned({"alg": ["HS256"]}), "bad_algorithm", Close.INVALID_TOKEN),
    "HS512": (jwt.encode(CLAIMS, b"s" * 64, "HS512"), "bad_algorithm", Close.INVALID_TOKEN),
    "no signature": (unsigned({"alg": "HS256"}), "bad_signature", Close.INVALID_TOKEN),
    "another secret": (jwt.encode(CLAIMS, SECRET[:-1] + b"t", "HS256"), "bad_signature", Close.INVALID_TOKEN),
    "an audience, where none is expected": (token(aud="other"), "wrong_audience", Close.INVALID_TOKEN),
    "crit": (token(headers={"crit": ["b64"], "b64": False}), "bad_token", Close.INVALID_TOKEN),
    "no exp": (token(exp=None), "token_without_exp", Close.INVALID_TOKEN),
    "no grant": (token(relay=None), "bad_grant", Close.INVALID_TOKEN),
    "a misspelt scope": (token(relay={"watch": {"task": ["a"]}}), "bad_grant", Close.INVALID_TOKEN),
    "exp of another type": (token(exp="soon"), "bad_grant", Close.INVALID_TOKEN),
    "nbf of another type": (token(nbf=[1]), "bad_grant", Close.INVALID_TOKEN),
    "claims that are no object": (jwt.PyJWS().encode(b"[]", SECRET, "HS256"), "bad_token", Close.INVALID_TOKEN),
    "too long": (token(pad="x" * tokens.MAX_TOKEN), "token_too_long", Close.INVALID_TOKEN),
    "empty": ("", "bad_token", Close.INVALID_TOKEN),
    "no token": ("Bearer", "bad_token", Close.INVALID_TOKEN),
    "surrogates": ("\ud800.\ud800.\ud800", "bad_token", Close.INVALID_TOKEN),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_hold_is_refused(case: str) -> None:
    text, code, close = REFUSED[case]
    with pytest.raises(Unauthenticated) as raised:
        verifier(key_of("HS256")).verify(text)
    assert (raised.value.code, raised.value.close) == (code, close)
    assert not text or text not in raised.value.message


def test_issuer_and_audience() -> None:
    rules = TokenRules(issuer="https://id.example", audience=("relay", "relay2"), leeway=5, requires_exp=True)
    strict = verifier(key_of("HS256"), rules=rules)
    strict.verify(token(iss="https://id.example", aud=["other", "relay2"]))
    for claims, code in (
        ({"iss": "https://id.example", "aud": "other"}, "wrong_audience"),
        ({"iss": "https://id.example"}, "wrong_audience"),
        ({"iss": "https://id.example.evil", "aud": "relay"}, "wrong_issuer"),
        ({"aud": "relay"}, "wrong_audience"),
    ):
        with pytest.raises(Unauthenticated) as raised:
            strict.verify(token(**claims))
        assert raised.value.code in (code, "wrong_issuer")


def test_a_key_is_found_by_its_name() -> None:
    keys = [TokenKey(b"a" * 32, ("HS256",), "a"), TokenKey(SECRET, ("HS256",), "b")]
    verifier(*keys).verify(token(headers={"kid": "b"}))
    verifier(*keys).verify(token())  # without one each is tried
    with pytest.raises(Unauthenticated) as raised:
        verifier(*keys).verify(token(headers={"kid": "a"}))
    assert raised.value.code == "bad_signature"
    with pytest.raises(tokens.UnknownKey):
        verifier(*keys).verify(token(headers={"kid": "B"}))
    with pytest.raises(tokens.UnknownKey):
        verifier().verify(token())
    verifier(key_of("HS256")).verify(token(headers={"kid": "any"}))  # the key has no name


def test_fewer_algorithms_may_be_configured() -> None:
    keys = limited([key_of("RS256"), key_of("HS256")], ["PS256"])
    assert [key.algorithms for key in keys] == [("PS256",)]
    verifier(*keys).verify(token("PS256"))
    with pytest.raises(Unauthenticated):
        verifier(*keys).verify(token("RS256"))


def test_a_remembered_token_still_ends() -> None:
    now = NOW
    checker = verifier(key_of("HS256"), now=lambda: now)
    text = token()
    assert checker.verify(text) is checker.verify(text), "verified once"
    now += 60
    with pytest.raises(Unauthenticated, match="expired"):
        checker.verify(text)


def test_other_keys_end_what_is_remembered() -> None:
    keys = [key_of("HS256")]
    checker = TokenVerifier(lambda: keys, RULES, lambda: NOW)
    text = token()
    checker.verify(text)
    assert len(checker) == 1
    keys[0] = TokenKey(b"t" * 32, ("HS256",))
    checker.forget()
    assert not len(checker)
    with pytest.raises(Unauthenticated, match="signature"):
        checker.verify(text)


def test_headers_that_anybody_writes_take_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_MAX_HEADERS", 2)
    checker = verifier(key_of("HS256"))
    for kid in range(5):
        forged = token(headers={"kid": str(kid)})[:-4] + "AAAA"
        with pytest.raises(Unauthenticated, match="signature"):
            checker.verify(forged)
    assert not checker._checks_of_header
    for kid in range(5):
        checker.verify(token(headers={"kid": str(kid)}))
    assert len(checker._checks_of_header) == 2


@given(st.text(max_size=30) | st.lists(st.binary(max_size=8), min_size=3, max_size=3).map(
    lambda parts: ".".join(base64.urlsafe_b64encode(part).decode() for part in parts)
))  # fmt: skip
def test_no_garbage_is_a_token(text: str) -> None:
    with pytest.raises(Unauthenticated):
        verifier(key_of("HS256")).verify(text)


def test_the_form_of_a_token() -> None:
    assert looks_like_token(token())
    assert not looks_like_token("demo")
    assert not looks_like_token("eyJ.a")


def test_keys_in_pem() -> None:
    pem = "".join(
        public(PRIVATE[name]).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        for name in ("RS256", "ES256", "EdDSA")
    )
    assert [key.algorithms for key in read_pem(f"# keys\n{pem}")] == [("RS256", "PS256"), ("ES256",), ("EdDSA",)]
