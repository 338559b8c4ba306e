"""Revoked grants: which, since when, and until when that has to be remembered."""

from collections.abc import Iterable
from typing import NamedTuple

from relay.core.grants import Grant


class Revocation(NamedTuple):
    """Grants that no longer hold.

    Attributes:
        kind: "jti" for the one grant of this id, "sub" for those of this subject that were issued until `at`.
        name: The id or the subject.
        at: When they were revoked, in seconds of the Unix epoch.
        until: When this can be forgotten, since none of them is valid any longer.
    """

    kind: str
    name: str
    at: float
    until: float


class Revocations:
    """The revocations that hold now.

    A subject that is revoked may come back with a grant that was issued later: revoking ends the sessions that it has, and its
    backend decides whether it gets new ones. A grant that does not say when it was issued counts as issued before.

    Attributes:
        is_changed: There are new ones since the last `take_changed`.
    """

    def __init__(self) -> None:
        self._by_name: dict[tuple[str, str], Revocation] = {}
        self.is_changed = False

    def __len__(self) -> int:
        return len(self._by_name)

    def add(self, revocation: Revocation) -> None:
        """Note a revocation. Of several for the same name the latest counts, and the longest memory."""
        key = revocation.kind, revocation.name
        known = self._by_name.get(key)
        if known is not None:
            revocation = revocation._replace(at=max(known.at, revocation.at), until=max(known.until, revocation.until))
            if revocation == known:
                return
        self._by_name[key] = revocation
        self.is_changed = True

    def replace_all(self, revocations: Iterable[Revocation]) -> None:
        """Note all revocations that hold now, and forget the others, which have had their time."""
        former, self._by_name = self._by_name, {}
        was_changed, self.is_changed = self.is_changed, False
        for revocation in revocations:
            self.add(revocation)
        is_new = any(key not in former or former[key].at < each.at for key, each in self._by_name.items())
        self.is_changed = was_changed or is_new

    def take_changed(self) -> bool:
        """Return whether there are new revocations since the last call."""
        is_changed, self.is_changed = self.is_changed, False
        return is_changed

    def covers(self, grant: Grant) -> bool:
        """Whether a grant is revoked, or the one that it was made with by sharing."""
        if not self._by_name:
            return False
        if self._covers(grant.subject, grant.token_id, grant.issued_at):
            return True
        shared_by = grant.shared_by
        return shared_by is not None and self._covers(shared_by.subject, shared_by.token_id, grant.issued_at)

    def _covers(self, subject: str | None, token_id: str | None, issued_at: float | None) -> bool:
        if token_id is not None and ("jti", token_id) in self._by_name:
            return True
        if subject is None:
            return False
        revocation = self._by_name.get(("sub", subject))
        return revocation is not None and (issued_at is None or issued_at <= revocation.at)
