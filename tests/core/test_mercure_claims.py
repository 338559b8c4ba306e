"""Mercure's claims grant topics, and nothing where they are malformed."""

from typing import Any

import pytest

from relay.core.errors import BadGrant
from relay.core.grant_claims import read_claims
from relay.core.grants import Decision, Grant, Scope, Verb, with_scope
from relay.core.topics import TOPICS

DETAIL = "https://mercure.rocks/authorization-detail"


def details(*topics: Any, actions: Any = ("subscribe",), kind: str = DETAIL) -> dict[str, Any]:
    return {"authorization_details": [{"type": kind, "actions": list(actions), "topics": list(topics)}]}


def may(grant: Grant, verb: Verb, channel: str) -> bool:
    return grant.decide(verb, channel) is Decision.ALLOWED


def test_selectors_cover_topics_tasks_and_channels() -> None:
    grant = read_claims({"mercure": {"subscribe": ["https://x/{id}", "task:a{n}", "news"], "payload": {"any": 1}}})
    covered = ["topic:https://x/7", "task:a1", "news", TOPICS]
    assert all(may(grant, Verb.WATCH, channel) for channel in covered)
    assert not any(may(grant, Verb.WATCH, channel) for channel in ("topic:https://y/7", "task:b", "general", "other"))
    assert not any(may(grant, verb, channel) for verb in (Verb.PUBLISH, Verb.LIST) for channel in covered)


def test_everything() -> None:
    for claims in ({"mercure": {"publish": ["*"]}}, details({"match": "*", "match_type": "any"}, actions=["publish"])):
        grant = read_claims(claims)
        assert all(may(grant, Verb.PUBLISH, channel) for channel in ("topic:a", "task:a", "general", "news"))
        assert not may(grant, Verb.WATCH, "topic:a")
        assert not may(grant, Verb.CANCEL, "task:a")


def test_claims_add_up() -> None:
    both = {"relay": {"watch": {"tasks": ["t"]}}, "mercure": {"subscribe": ["a"]}, **details({"match": "b"})}
    grant = with_scope(read_claims(both), Verb.WATCH, Scope(topics=frozenset({"c"})))
    assert all(may(grant, Verb.WATCH, channel) for channel in ("task:t", "topic:a", "topic:b", "topic:c"))
    assert not may(grant, Verb.WATCH, "topic:d")


def test_details_of_another_type_and_unknown_actions_grant_nothing() -> None:
    assert read_claims(details({"match": "a"}, kind="other")).scopes == {}
    assert read_claims(details({"match": "a"}, actions=["other"])).scopes == {}


@pytest.mark.parametrize(
    "claims",
    [
        {"mercure": []},
        {"mercure": {"publish": "*"}},
        {"mercure": {"subscribe": [{}]}},
        {"mercure": {"subscribe": ["a" * 1025]}},
        {"authorization_details": {}},
        {"authorization_details": [1]},
        {"authorization_details": [{"type": DETAIL}]},
        details("a"),
        details({}),
        details({"match": "a"}, actions=[1.5]),
        details({"match": "a", "match_type": "urlpattern"}),
        details({"match": "https://x/{id}"}),
        {},
    ],
)
def test_malformed_claims_are_refused(claims: dict[str, Any]) -> None:
    with pytest.raises(BadGrant):
        read_claims(claims)
