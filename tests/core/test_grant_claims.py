"""Grants in writing: what is read is what was written, and what is malformed is refused with the place of the mistake."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.errors import BadGrant
from relay.core.grant_claims import MAX_NAMES, claims_of, read_claims, read_compact, read_scopes, read_setting
from relay.core.grants import Grant, Scope, Verb
from tests.core.test_grants import GRANTS

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["relay", "watch", "list", "tasks", "prefixes", "owned", "all", "sub", "exp"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(GRANTS)
def test_what_is_written_is_read(grant: Grant) -> None:
    assert read_claims(json.loads(json.dumps(claims_of(grant)))) == grant


@given(JSON)
def test_whatever_is_read_is_a_grant_or_a_clear_error(claim: Any) -> None:
    try:
        scopes = read_scopes(claim)
    except BadGrant as error:
        assert str(error)  # noqa: PT017 - both outcomes are right
    else:
        assert read_scopes(claims_of(Grant(scopes))["relay"]) == scopes


@given(st.dictionaries(st.sampled_from(["relay", "sub", "groups", "iat", "exp", "jti", "shared_by"]), JSON))
def test_claims_are_a_grant_or_an_error(claims: dict[str, Any]) -> None:
    try:
        grant = read_claims(claims)
    except BadGrant:
        return
    assert read_claims(claims_of(grant)) == grant


def test_the_documented_claim() -> None:
    claim = {
        "watch": {
            "tasks": ["demo", 7],
            "prefixes": ["order-7/"],
            "owned": True,
            "general": True,
            "channels": ["news"],
            "channel_prefixes": ["agent:"],
        },
        "list": {"owned": False},
        "publish": {"all": True},
    }
    grant = read_claims({"relay": claim, "sub": "user:7", "groups": ["team:1"], "exp": 1e9, "jti": "x", "role": "any"})
    assert grant == Grant(
        {
            Verb.WATCH: Scope(
                tasks=frozenset({"demo", "7"}),
                prefixes=("order-7/",),
                owned=True,
                general=True,
                channels=frozenset({"news"}),
                channel_prefixes=("agent:",),
            ),
            Verb.LIST: Scope(),
            Verb.PUBLISH: Scope(everything=True),
        },
        "user:7",
        frozenset({"team:1"}),
        None,
        1e9,
        "x",
    )


@pytest.mark.parametrize(
    ("claims", "complaint"),
    [
        ({}, "no claim `relay`"),
        ({"relay": []}, "the claim `relay` must be an object"),
        ({"relay": {"wach": {}}}, "unknown verb in the claim `relay`: 'wach'; expected one of watch, list"),
        ({"relay": {"watch": True}}, "relay.watch must be an object"),
        ({"relay": {"watch": {"task": ["a"]}}}, "unknown scope in relay.watch: 'task'; expected one of tasks"),
        ({"relay": {"watch": {"tasks": "demo"}}}, "relay.watch.tasks must be a list"),
        ({"relay": {"watch": {"tasks": [None]}}}, "relay.watch.tasks must be a list of texts"),
        ({"relay": {"watch": {"tasks": [True]}}}, "relay.watch.tasks must be a list of texts"),
        ({"relay": {"watch": {"prefixes": [""]}}}, "each text in relay.watch.prefixes must have 1 to 255"),
        ({"relay": {"watch": {"tasks": ["a" * 256]}}}, "each text in relay.watch.tasks must have 1 to 255"),
        ({"relay": {"watch": {"tasks": ["a"] * (MAX_NAMES + 1)}}}, "relay.watch.tasks may have 1000 items at most"),
        ({"relay": {"watch": {"owned": 1}}}, "relay.watch.owned must be true or false"),
        ({"relay": {}, "sub": 7}, "the claim `sub` must be a text"),
        ({"relay": {}, "sub": ""}, "the claim `sub` must be a text"),
        ({"relay": {}, "groups": "a"}, "groups must be a list"),
        ({"relay": {}, "exp": "soon"}, "the claim `exp` must be a number"),
        ({"relay": {}, "exp": float("nan")}, "the claim `exp` must be a number"),
        ({"relay": {}, "exp": 1e300}, "the claim `exp` must be a number"),
        ({"relay": {}, "iat": True}, "the claim `iat` must be a number"),
        ({"relay": {}, "jti": []}, "the claim `jti` must be a text"),
    ],
)
def test_mistakes_are_named(claims: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadGrant) as raised:
        read_claims(claims)
    assert complaint in str(raised.value)


def test_the_compact_form() -> None:
    scopes = read_compact("watch:task:a:b watch:prefix:public/ watch:owned list:general  publish:all\ncancel:channel:x")
    assert scopes == {
        Verb.WATCH: Scope(tasks=frozenset({"a:b"}), prefixes=("public/",), owned=True),
        Verb.LIST: Scope(general=True),
        Verb.PUBLISH: Scope(everything=True),
        Verb.CANCEL: Scope(channels=frozenset({"x"})),
    }
    assert read_setting(' {"watch": {"prefixes": ["public/"]}}') == read_setting("watch:prefix:public/")
    assert read_setting("") == {}


@pytest.mark.parametrize(
    "text", ["watch", "watch:", "see:all", "watch:task", "watch:task:", "watch:owned:x", "watch:prefix:", "{", "[]"]
)
def test_malformed_settings_are_refused(text: str) -> None:
    with pytest.raises(BadGrant):
        read_setting(text)


def test_equal_scopes_are_read_once_and_others_never_taken_for_them() -> None:
    first, same = (read_claims({"relay": {"watch": {"owned": True}}, "sub": name}) for name in ("ann", "bob"))
    assert first.scopes is same.scopes
    assert (first.subject, same.subject) == ("ann", "bob")
    assert read_claims({"relay": {"watch": {"owned": False}}}).scopes[Verb.WATCH] == Scope()
    many = {"watch": {"tasks": [f"task-{number}" for number in range(200)]}}
    assert read_claims({"relay": many}).scopes == read_scopes(many)
    both = read_claims({"relay": {"watch": {"owned": True}}, "mercure": {"subscribe": ["a"]}})
    assert both.scopes[Verb.WATCH] == Scope(owned=True, topics=frozenset({"a"}))
    assert first.scopes[Verb.WATCH] == Scope(owned=True)
    with pytest.raises(BadGrant, match="claim `relay` must be an object"):
        read_claims({"relay": ["watch"]})
