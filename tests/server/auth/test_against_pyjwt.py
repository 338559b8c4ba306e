"""What Relay verifies holds for `jwt.decode` too, however a token was changed on its way."""

import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import jwt
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from relay.core.errors import Unauthenticated
from relay.core.grant_claims import read_claims
from relay.core.grants import Grant
from relay.server.auth.token_keys import TokenKey
from relay.server.auth.tokens import TokenRules, TokenVerifier

SECRET, OTHER_SECRET = b"s" * 32, b"t" * 32
ISSUER, AUDIENCE = "https://id.example", "relay"
KEYS = [TokenKey(SECRET, ("HS256",), "a"), TokenKey(OTHER_SECRET, ("HS256",), "b")]
STARTED = time.time()

# Times that are an hour away from now: how long a test takes does not matter.
TIMES = st.sampled_from([STARTED - 3600, STARTED + 3600, int(STARTED) + 7200, 0, -1])
GOOD = {"relay": {"watch": {"tasks": ["demo"]}}, "exp": STARTED + 3600, "iss": ISSUER, "aud": AUDIENCE}

#: Values of single claims, of which some are as they should be; None stands for none.
CHANGES: dict[str, st.SearchStrategy[Any]] = {
    "relay": st.sampled_from([{}, {"list": {"owned": True}}]),
    "exp": st.none() | TIMES,
    "nbf": TIMES,
    "iat": TIMES,
    "iss": st.sampled_from([None, ISSUER + "/", "", 7]),
    "aud": st.sampled_from([None, "other", [AUDIENCE], ["other", AUDIENCE], [], ["other"], [AUDIENCE, 7], 7]),
    "sub": st.text(min_size=1, max_size=5),
    "jti": st.text(min_size=1, max_size=5),
    "more": st.lists(st.integers() | st.text(max_size=3), max_size=3),
}


@st.composite
def claims_of_a_signer(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(sorted(CHANGES)), max_size=3, unique=True))
    claims = {**GOOD, **{name: draw(CHANGES[name]) for name in names}}
    return {name: value for name, value in claims.items() if value is not None}


RULES = st.builds(
    TokenRules,
    issuer=st.sampled_from([None, ISSUER]),
    audience=st.sampled_from([(AUDIENCE,), ("relay2", AUDIENCE), ()]),
    leeway=st.just(5),
    requires_exp=st.booleans(),
)
HEADERS: list[dict[str, Any]] = [
    {},
    {"kid": "a"},
    {"kid": "b"},
    {"typ": "at+jwt"},
    {"x": "y"},
]


def segment(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(header: bytes, claims: bytes, secret: bytes = SECRET) -> str:
    message = f"{segment(header)}.{segment(claims)}"
    return message + "." + segment(jwt.get_algorithm_by_name("HS256").sign(message.encode(), secret))


def outcome(verifier: TokenVerifier, token: str) -> Grant | str:
    """The grant of a token, or the code with which it is refused."""
    try:
        return verifier.verify(token)
    except Unauthenticated as error:
        return error.code


def decoded(token: str, rules: TokenRules, secret: bytes) -> dict[str, Any] | None:
    """What `jwt.decode` makes of a token; None if it refuses it."""
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            secret,
            algorithms=["HS256"],
            issuer=rules.issuer,
            audience=rules.audience or None,
            leeway=rules.leeway,
            options={"require": ["exp"] if rules.requires_exp else []},
        )
    except jwt.InvalidTokenError:
        return None
    return claims


def decoded_by_any(token: str, rules: TokenRules) -> dict[str, Any] | None:
    return next(
        (claims for secret in (SECRET, OTHER_SECRET) if (claims := decoded(token, rules, secret)) is not None), None
    )


@given(claims_of_a_signer(), st.sampled_from(HEADERS), st.sampled_from([SECRET, OTHER_SECRET]), RULES)
def test_what_a_signer_writes_is_judged_alike(
    claims: dict[str, Any], header: dict[str, Any], secret: bytes, rules: TokenRules
) -> None:
    token = signed(json.dumps({"alg": "HS256", **header}).encode(), json.dumps(claims).encode(), secret)
    named = [key.key for key in KEYS if key.kid == header.get("kid", key.kid)]
    expected = decoded(token, rules, secret) if secret in named else None
    found = outcome(TokenVerifier(lambda: KEYS, rules), token)
    event("holds" if expected is not None else f"refused: {found}")
    if expected is None:
        assert isinstance(found, str)
    else:
        assert found == read_claims(expected)


@st.composite
def changed(draw: st.DrawFn, token: str, other: str) -> str:
    """Change a token: its characters, its segments, what they say, or how that is written."""
    parts = token.split(".")
    match draw(st.integers(0, 7)):
        case 0:  # one character becomes another one
            at = draw(st.integers(0, len(token) - 1))
            return token[:at] + draw(st.sampled_from("AQgwz09-_.=+/ \n\u00e9")) + token[at + 1 :]
        case 1:  # one is missing, or too many
            at = draw(st.integers(0, len(token)))
            return token[:at] + draw(st.sampled_from(["", "=", ".", "A", "\n"])) + token[at + draw(st.integers(0, 1)) :]
        case 2:  # parts of two tokens
            return ".".join(draw(st.sampled_from(pair)) for pair in zip(parts, other.split("."), strict=True))
        case 3:  # parts in another order, or missing
            return ".".join(draw(st.lists(st.sampled_from(parts), max_size=4)))
        case 4:  # another header
            header = json.loads(urlsafe_b64decode(parts[0] + "=="))
            more: dict[str, Any] = draw(
                st.sampled_from([{"alg": "none"}, {"alg": "HS512"}, {"alg": None}, {"crit": ["b64"]}, {"kid": "c"}])
            )
            return ".".join([segment({**header, **more}), *parts[1:]])
        case 5:  # other claims
            claims = json.loads(urlsafe_b64decode(parts[1] + "=="))
            return ".".join([parts[0], segment({**claims, "sub": "root", "exp": STARTED + 1e6}), parts[2]])
        case 6:  # the same bytes, written differently
            return ".".join(part + "=" * (-len(part) % 4) for part in parts)
        case _:  # another signature: none, a part of it, or one with unused bits
            signature = parts[2]
            last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
            unused = signature[:-1] + last[last.index(signature[-1]) | draw(st.integers(1, 3))]
            return ".".join([*parts[:2], draw(st.sampled_from(["", signature[:-1], signature[:20], unused]))])


TOKEN = jwt.encode(GOOD, SECRET, "HS256")
NAMED = jwt.encode({**GOOD, "sub": "ann"}, OTHER_SECRET, "HS256", {"kid": "b"})


@given(st.sampled_from([(TOKEN, NAMED), (NAMED, TOKEN)]).flatmap(lambda pair: changed(*pair)))
def test_what_was_changed_holds_only_where_pyjwt_takes_it_too(token: str) -> None:
    rules = TokenRules(ISSUER, (AUDIENCE,), 5, requires_exp=True)
    fresh = TokenVerifier(lambda: KEYS, rules)
    # One that has seen good tokens knows their headers already: that makes no difference.
    experienced = TokenVerifier(lambda: KEYS, rules)
    for good in (TOKEN, NAMED):
        outcome(experienced, good)
    found = outcome(fresh, token)
    assert outcome(experienced, token) == found
    assert outcome(experienced, token) == found, "the second time"
    expected = decoded_by_any(token, rules)
    event(
        f"{'holds' if isinstance(found, Grant) else found}, {'holds' if expected is not None else 'refused'} for PyJWT"
    )
    if isinstance(found, Grant):
        assert expected is not None
        assert found == read_claims(expected)


WITHOUT_PARTIES = jwt.encode({"relay": {}, "exp": STARTED + 3600}, SECRET, "HS256")


@pytest.mark.parametrize(
    ("header", "claims"),
    [
        (b'{"alg":"HS256","crit":["exp"]}', b'{"relay":{},"exp":9e9}'),
        (b'{"alg":"HS256"}', b'{"relay":{},"exp":9e9'),
        (b'{"alg":"HS256"}', b'{"relay":{},"exp":9e9}{}'),
        (b'{"alg":"HS256"}', b'"relay"'),
        (b'{"alg":"HS256"}', b"\xff"),
        (b'{"alg":"HS256"}', b'{"relay":{},"exp":9e9,"more":"\xff"}'),
        (b'{"alg":"HS256"}', b"[" * 100_000),
        (b'["HS256"]', b'{"relay":{},"exp":9e9}'),
        (b'{"alg":"HS256","alg":"none"}', b'{"relay":{},"exp":9e9}'),
        (b'{"alg":"HS256"}', b'{"relay":{},"exp":9e9,"exp":1}'),
        (b'{"alg":"HS256"}', b'{"relay":{},"exp":9e9,"aud":""}'),  # PyJWT takes these three for none
        (b'{"alg":"HS256"}', b'{"relay":{},"exp":9e9,"aud":{}}'),
        (b'{"alg":"HS256"}', b'{"relay":{},"exp":9e9,"aud":null}'),
    ],
)
def test_what_is_malformed_is_refused_whoever_signed_it(header: bytes, claims: bytes) -> None:
    rules = TokenRules(None, (), 5, requires_exp=True)
    verifier = TokenVerifier(lambda: KEYS, rules)
    assert isinstance(outcome(verifier, WITHOUT_PARTIES), Grant), "a good one holds, and its header is known then"
    assert isinstance(outcome(verifier, signed(header, claims)), str)
