"""A revoked grant stays revoked until it could not be valid anyway; nobody else's is."""

from hypothesis import given
from hypothesis import strategies as st

from relay.core.grants import Grant, SharedBy
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
    shared_by=st.none() | st.builds(SharedBy, st.none() | NAMES, st.none() | NAMES),
)


@given(st.lists(REVOCATIONS, max_size=6), GRANTS, st.randoms(use_true_random=False))
def test_what_is_revoked(revocations: list[Revocation], grant: Grant, order: object) -> None:
    known = Revocations()
    for revocation in revocations:
        known.add(revocation)
    shared_by = grant.shared_by or SharedBy(None, None)
    expected = any(
        (kind == "jti" and name in (grant.token_id, shared_by.token_id))
        or (
            kind == "sub"
            and name in (grant.subject, shared_by.subject)
            and (grant.issued_at is None or grant.issued_at <= at)
        )
        for kind, name, at, _ in revocations
    )
    assert known.covers(grant) == expected
    assert known.take_changed() == bool(revocations)
    known.replace_all(revocations)
    assert not known.take_changed(), "nothing new"
    assert known.covers(grant) == expected


@given(st.lists(REVOCATIONS, max_size=6), st.lists(REVOCATIONS, max_size=6))
def test_what_is_read_replaces_what_was_known(before: list[Revocation], after: list[Revocation]) -> None:
    known = Revocations()
    known.replace_all(before)
    known.take_changed()
    known.replace_all(after)
    assert len(known) == len({(each.kind, each.name) for each in after})
    latest = {key: max(each.at for each in before if (each.kind, each.name) == key) for key in
              {(each.kind, each.name) for each in before}}  # fmt: skip
    assert known.take_changed() == any(each.at > latest.get((each.kind, each.name), -1) for each in after)
