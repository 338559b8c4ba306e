"""Operators' channels are never a task's, nor the general one, whatever they are called."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.channels import task_channel
from relay.core.extra_channels import channel_of, name_of


@given(st.text(max_size=50), st.text(min_size=1, max_size=50))
def test_no_two_names_are_one_channel(name: str, other: str) -> None:
    assert channel_of(name) not in ("general", task_channel(other))
    assert (channel_of(name) == channel_of(other)) == (name == other)
    assert name_of(channel_of(name)) == name or name.startswith("extra:")


@pytest.mark.parametrize("name", ["general", "task:7", "task:", "extra:task:7"])
def test_names_that_are_taken_are_set_apart(name: str) -> None:
    assert channel_of(name) == f"extra:{name}"


def test_other_names_are_as_they_are() -> None:
    assert channel_of("community_agent:x") == name_of("community_agent:x") == "community_agent:x"
