"""Grants of a backend: what stands in the tokens, and that none is made which would surprise its maker."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from relay_client.grants import GrantError, Grants, Scope

from relay.core.grant_claims import read_claims
from relay.core.grants import Decision, Verb

SECRET = "0123456789abcdef0123456789abcdef"


def claims_of(token: str, **options: Any) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, SECRET, ["HS256"], **options)
    return claims


def test_a_token_lets_a_user_watch_these_tasks_and_no_others() -> None:
    token = Grants(SECRET).watch("a", 7, prefixes=["order-7/"], general=True, subject="user:7", groups=["team"])
    claims = claims_of(token)
    assert claims["relay"] == {"watch": {"tasks": ["a", "7"], "prefixes": ["order-7/"], "general": True}}
    assert 890 <= claims["exp"] - claims["iat"] <= 900
    grant = read_claims(claims)  # as the relay does
    assert grant.subject == "user:7"
    assert grant.groups == {"team"}
    assert grant.token_id
    for channel, verb, decision in [
        ("task:a", Verb.WATCH, Decision.ALLOWED),
        ("task:order-7/x", Verb.WATCH, Decision.ALLOWED),
        ("general", Verb.WATCH, Decision.ALLOWED),
        ("task:b", Verb.WATCH, Decision.DENIED),
        ("task:a", Verb.LIST, Decision.DENIED),
        ("task:a", Verb.PUBLISH, Decision.DENIED),
    ]:
        assert grant.decide(verb, channel) is decision


def test_owned_tasks_are_found_by_their_owner() -> None:
    grant = read_claims(claims_of(Grants(SECRET).watch(owned=True, listed=True, subject="user:7")))
    for verb in (Verb.WATCH, Verb.LIST):
        assert grant.decide(verb, "task:a", frozenset({"user:7"})) is Decision.ALLOWED
        assert grant.decide(verb, "task:a", frozenset({"user:8"})) is Decision.DENIED


def test_every_verb_and_scope_is_one_that_the_relay_knows() -> None:
    scope = Scope(["a"], ["p/"], owned=True, general=True, channels=["news"], everything=True)
    token = Grants(SECRET).token(dict.fromkeys(["watch", "list", "publish", "cancel", "revoke"], scope), subject="u")
    assert set(read_claims(claims_of(token)).scopes) == set(Verb)


@pytest.mark.parametrize(("ttl", "seconds"), [(60, 60), (timedelta(hours=2), 7200)])
def test_a_token_holds_as_long_as_it_should(ttl: float | timedelta, seconds: int) -> None:
    for token in (Grants(SECRET).watch("a", ttl=ttl), Grants(SECRET, ttl=ttl).watch("a")):
        claims = claims_of(token)
        assert abs(claims["exp"] - claims["iat"] - seconds) <= 1


def test_issuer_audience_and_key_id_stand_where_the_relay_looks_for_them() -> None:
    token = Grants(SECRET, issuer="backend", audience="relay", key_id="k1").watch("a")
    assert claims_of(token, audience="relay", issuer="backend")["iss"] == "backend"
    assert jwt.get_unverified_header(token)["kid"] == "k1"


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [("EdDSA", ed25519.Ed25519PrivateKey.generate()), ("ES256", ec.generate_private_key(ec.SECP256R1()))],
)
def test_tokens_are_signed_with_private_keys(algorithm: str, key: Any) -> None:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    token = Grants(private, algorithm=algorithm).watch("a")
    assert jwt.decode(token, public, [algorithm])["relay"] == {"watch": {"tasks": ["a"]}}
    for wrong in (public, b"-----BEGIN PRIVATE KEY-----\nrubbish\n-----END PRIVATE KEY-----"):
        with pytest.raises(GrantError, match="cannot be used"):
            Grants(wrong, algorithm=algorithm)
    with pytest.raises(GrantError, match="name its algorithm"):
        Grants(private)
    with pytest.raises(GrantError, match="in PEM form"):
        Grants(SECRET, algorithm=algorithm)


GRANTS = Grants(SECRET)

REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: GRANTS.watch(), "allows nothing"),
    (lambda: GRANTS.watch(""), "empty name"),
    (lambda: GRANTS.watch(prefixes=[""]), "empty name"),
    (lambda: GRANTS.token({"watch": Scope(prefixes="order-7/")}), "must be a list"),
    (lambda: GRANTS.watch("a", groups="team"), "must be a list"),
    (lambda: GRANTS.watch(owned=True), "give one"),
    (lambda: GRANTS.watch("a", ttl=0), "at least one second"),
    (lambda: GRANTS.watch("a", ttl=float("nan")), "at least one second"),
    (lambda: GRANTS.token({}), "allows nothing"),
    (lambda: GRANTS.token({"read": Scope(["a"])}), "unknown verb"),
    (lambda: Grants("short"), "at least 32 bytes"),
    (lambda: Grants(SECRET, algorithm="none"), "unknown algorithm"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_would_allow_nothing_or_too_much_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(GrantError, match=message):
        make()


def test_nothing_shows_the_secret() -> None:
    assert SECRET not in repr(Grants(SECRET))
    with pytest.raises(GrantError) as caught:
        Grants(SECRET[:20])
    assert SECRET[:8] not in str(caught.value)
