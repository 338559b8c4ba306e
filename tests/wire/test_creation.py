"""The options of a task's creation."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from relay_wire.creation import MAX_OWNERS, NO_OPTIONS, creation_options, owner_of, wire_args

NAME = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(st.frozensets(NAME, max_size=MAX_OWNERS))
def test_owners_come_back_from_redis_as_they_went(owner: frozenset[str]) -> None:
    text, _ = wire_args(creation_options(owner))
    assert owner_of(text) == owner_of(text.encode()) == owner
    assert wire_args(creation_options(sorted(owner, reverse=True))) == (text, "")


def test_what_is_not_given_stays_as_it_is() -> None:
    assert wire_args(NO_OPTIONS) == ("", "")
    assert creation_options() is NO_OPTIONS
    assert owner_of(None) == frozenset()
    assert creation_options("user:7", 7)[:2] == (frozenset(["user:7"]), "7")


@pytest.mark.parametrize(
    "arguments",
    [
        {"owner": ""},
        {"owner": ["x" * 256]},
        {"owner": ["\udc80"]},
        {"owner": [f"{number}" for number in range(MAX_OWNERS + 1)]},
        {"owner": [7]},
        {"parent_id": ""},
        {"parent_id": True},
        {"parent_id": "t", "task_id": "t"},
    ],
)
def test_bad_options_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        creation_options(**arguments)
