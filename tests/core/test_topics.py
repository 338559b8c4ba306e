"""Selectors match what a URI template can expand to, and nothing else, in little time."""

import re
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.topics import MAX_TOPIC, is_template, matches

MATCHING = [
    ("*", "anything at all"),
    ("a", "a"),
    ("https://example.net/foo/{id}", "https://example.net/foo/7"),
    ("/a{/x}", "/a"),
    ("/a{/x}", "/a/b"),
    ("/a{/x,y}", "/a/b/c"),
    ("/a{/x*}", "/a/b/c/d"),
    ("/a{?x,y}", "/a?y=2"),
    ("/a{?x,y}", "/a?x=1&y=2"),
    ("/a?z=1{&x}", "/a?z=1&x=%20"),
    ("/a{;x,y}", "/a;x=1;y"),
    ("a{.x}", "a.tar"),
    ("a{#x}b", "a#1/2b"),
    ("{+path}", "https://a/b?c"),
    ("{x}{y}-{z}", "1-2"),
    ("{x}", ""),
    ("{x:3}", "{x:3}"),
    ("{", "{"),
]

DIFFERENT = [
    ("a", "b"),
    ("https://example.net/foo/{id}", "https://example.net/foo/7/8"),
    ("https://example.net/foo/{id}", "https://example.net/bar/7"),
    ("/a{/x}", "/a/b/c"),
    ("/a{?x}", "/a?z=1"),
    ("/a{?x}", "/a?x"),
    ("{x}", "a b"),
    ("{x}", "é"),
    ("{x:3}", "abc"),
    ("{x", "a"),
]


@pytest.mark.parametrize(("selector", "topic"), MATCHING)
def test_matches(selector: str, topic: str) -> None:
    assert matches(selector, topic)


@pytest.mark.parametrize(("selector", "topic"), DIFFERENT)
def test_does_not_match(selector: str, topic: str) -> None:
    assert not matches(selector, topic)


@given(st.lists(st.sampled_from(["{x}", "{+x}", "a", "/", "{y}"]), max_size=5), st.text("ab/", max_size=6))
def test_simple_templates_match_like_regular_expressions(parts: list[str], topic: str) -> None:
    classes = {"{x}": "[ab]*", "{y}": "[ab]*", "{+x}": "[ab/]*"}
    expression = "".join(classes.get(part, part) for part in parts)
    assert matches("".join(parts), topic) is (re.fullmatch(expression, topic) is not None or "".join(parts) == topic)


@given(st.text("{}abx/+?,.*:", max_size=20), st.text("abx/?=&,.:", max_size=20))
def test_any_text_is_a_selector(selector: str, topic: str) -> None:
    assert matches(selector, selector)
    if not is_template(selector):
        assert matches(selector, topic) is (selector == topic)


def test_a_template_that_is_hard_for_regular_expressions_costs_little() -> None:
    begun = process_time()
    assert not matches("{a}{b}{c}{d}{e}{f}{g}{h}{i}{j}{k}{l}!", "a" * (MAX_TOPIC - 1) + "?")
    assert process_time() - begun < 1  # a backtracking matcher would not end
