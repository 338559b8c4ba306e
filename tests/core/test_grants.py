"""A grant covers what its scopes name and nothing else, whatever order and form they come in."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from relay.core.channels import task_channel
from relay.core.extra_channels import channel_of
from relay.core.grants import EVERYTHING, NOTHING, Decision, Grant, Scope, SharedBy, Verb

# Short alphabets, so that names meet, and begin with each other.
NAMES = st.text("ab/:", min_size=1, max_size=4)
NAME_SETS = st.frozensets(NAMES, max_size=3)
PREFIXES = st.lists(NAMES, max_size=2).map(tuple)
SCOPES = st.builds(
    Scope,
    everything=st.integers(0, 9).map(lambda number: number == 0),
    tasks=NAME_SETS,
    prefixes=PREFIXES,
    owned=st.booleans(),
    general=st.booleans(),
    channels=NAME_SETS,
    channel_prefixes=PREFIXES,
)
GRANTS = st.builds(
    Grant,
    scopes=st.dictionaries(st.sampled_from(Verb), SCOPES),
    subject=st.none() | NAMES,
    groups=NAME_SETS,
    issued_at=st.none() | st.floats(0, 1e10),
    expires_at=st.none() | st.floats(0, 1e10),
    token_id=st.none() | NAMES,
    shared_by=st.none() | st.builds(SharedBy, st.none() | NAMES, st.none() | NAMES),
)
VERBS = st.sampled_from(Verb)


def _covers_task(grant: Grant, verb: Verb, task_id: str, owner: frozenset[str]) -> bool:
    """The rule of docs/security.md, written down a second time."""
    scope = grant.scopes.get(verb)
    if scope is None:
        return False
    names = [*grant.groups, *([] if grant.subject is None else [grant.subject])]
    return (
        scope.everything
        or any(task_id == name for name in scope.tasks)
        or any(task_id[: len(prefix)] == prefix for prefix in scope.prefixes)
        or (scope.owned and any(name in owner for name in names))
    )


@given(GRANTS, VERBS, NAMES, NAME_SETS)
def test_a_task_is_covered_as_documented(grant: Grant, verb: Verb, task_id: str, owner: frozenset[str]) -> None:
    expected = Decision.ALLOWED if _covers_task(grant, verb, task_id, owner) else Decision.DENIED
    assert grant.decide(verb, task_channel(task_id), owner) is expected


@given(GRANTS, VERBS, NAMES, st.lists(NAME_SETS, min_size=1))
def test_without_the_owner_nothing_is_decided_that_the_owner_would_change(
    grant: Grant, verb: Verb, task_id: str, owners: list[frozenset[str]]
) -> None:
    first = grant.decide(verb, task_channel(task_id))
    decisions = {grant.decide(verb, task_channel(task_id), owner) for owner in owners}
    assert Decision.NEEDS_OWNER not in decisions
    if first is not Decision.NEEDS_OWNER:
        assert decisions == {first}
    else:  # the question is not asked in vain
        assert grant.decide(verb, task_channel(task_id), grant.identities) is Decision.ALLOWED
        assert grant.decide(verb, task_channel(task_id), frozenset()) is Decision.DENIED


@given(GRANTS, VERBS, NAMES)
def test_channels_of_operators_and_of_tasks_are_not_mixed_up(grant: Grant, verb: Verb, name: str) -> None:
    scope = grant.scope(verb)
    covered = scope.everything or name in scope.channels or any(map(name.startswith, scope.channel_prefixes))
    assert (grant.decide(verb, channel_of(name)) is Decision.ALLOWED) == covered
    assert (grant.decide(verb, "general") is Decision.ALLOWED) == (scope.everything or scope.general)


@given(GRANTS, NAMES, NAME_SETS)
def test_a_verb_never_counts_for_another(grant: Grant, task_id: str, owner: frozenset[str]) -> None:
    for verb, other in combinations(Verb, 2):
        without = replace(grant, scopes={key: scope for key, scope in grant.scopes.items() if key is not verb})
        assert without.decide(verb, task_channel(task_id), owner) is Decision.DENIED
        channel = task_channel(task_id)
        assert without.decide(other, channel, owner) is grant.decide(other, channel, owner)


@pytest.mark.parametrize("verb", Verb)
@pytest.mark.parametrize("channel", ["task:a", "general", "news", channel_of("task:a")])
def test_everything_and_nothing(verb: Verb, channel: str) -> None:
    assert EVERYTHING.decide(verb, channel) is Decision.ALLOWED
    assert NOTHING.decide(verb, channel) is Decision.DENIED
    assert NOTHING.decide(verb, channel, frozenset({""})) is Decision.DENIED
