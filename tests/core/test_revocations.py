"""A revoked grant stays revoked until it could not be valid anyway; nobody else's is."""

from hypothesis import given
from hypothesis import strategies as st

from relay.core.grants import Grant
from relay.core.revocations import Revocation, Revocations

NAMES = st.sampled_from(["a", "b"])
REVOCATIONS = st.builds(
    Revocation, st.sampled_from(["jti", "sub"]), NAMES, st.integers(0, 9).map(float), st.integers(10, 30).map(float)
)
GRANTS = st.builds(
    Grant,
    subject=st.none() | NAMES,
    token_id=st.none() | NAMES,
    issued_at=st.none() | st.integers(0, 9).map(float),
)


@given(st.lists(REVOCATIONS, max_size=6), GRANTS, st.randoms(use_true_random=False))
def test_what_is_revoked(revocations: list[Revocation], grant: Grant, order: object) -> None:
    known = Revocations()
    for revocation in revocations:
        known.add(revocation)
    expected = any(
        (kind == "jti" and grant.token_id == name)
        or (kind == "sub" and grant.subject == name and (grant.issued_at is None or grant.issued_at <= at))
        for kind, name, at, _ in revocations
    )
    assert known.covers(grant) == expected
    assert known.take_changed() == bool(revocations)
    known.add_all(revocations, 0)
    assert not known.take_changed(), "nothing new"


@given(st.lists(REVOCATIONS, max_size=6), st.integers(0, 40))
def test_what_has_had_its_time_is_forgotten_and_nothing_else(revocations: list[Revocation], now: int) -> None:
    known = Revocations()
    known.add_all(revocations, now)
    names = {(each.kind, each.name) for each in revocations if each.until > now}
    assert len(known) == len(names)
