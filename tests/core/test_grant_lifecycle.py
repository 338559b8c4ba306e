"""The grant of a connection, in every order of grants, times and revocations."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from relay.core.closecodes import Close
from relay.core.grant_lifecycle import GrantLifecycle, Notice, State
from relay.core.grants import EVERYTHING, NOTHING, Grant

NOTICE = 60.0


class Lifecycle(RuleBasedStateMachine):
    """A connection whose times are checked when they are due, as the heartbeat does."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1e9
        self.lifecycle = GrantLifecycle(self.now + 10)
        self.deadline = self.now + 10
        self.expected: Grant | None = None
        self.notified = False
        self.closed: Close | None = None

    @rule(seconds=st.floats(0.001, 1000), ends=st.booleans())
    def grant(self, seconds: float, ends: bool) -> None:
        grant = Grant(EVERYTHING.scopes, expires_at=self.now + seconds if ends else None)
        self.lifecycle.on_grant(grant, self.now, NOTICE)
        if self.closed is None:
            self.expected, self.notified = grant, False

    @rule(seconds=st.floats(0.01, 500))
    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (due := self.lifecycle.next_check) is not None and due <= until:
            assert self.closed is None, "nothing is due after the end"
            self.now = max(self.now, due)
            result = self.lifecycle.check(self.now)
            if isinstance(result, Notice):
                assert self.expected is not None
                assert not self.notified, "one notice for each grant"
                assert 0 < result.seconds <= NOTICE
                assert self.expected.expires_at is not None
                assert abs(self.now + result.seconds - self.expected.expires_at) < 1e-3
                self.notified = True
            elif result is Close.TOKEN_EXPIRED:
                assert self.expected is not None
                assert self.expected.expires_at is not None
                assert self.expected.expires_at <= self.now
                assert self.notified, "notified before"
                self.closed = result
            elif result is Close.UNAUTHENTICATED:
                assert self.expected is None
                assert self.now >= self.deadline
                self.closed = result
        self.now = until

    @rule()
    def revoke(self) -> None:
        result = self.lifecycle.on_revoked()
        assert result is (Close.REVOKED if self.closed is None else None)
        self.closed = self.closed or result

    @invariant()
    def a_client_is_served_with_its_grant_and_no_longer(self) -> None:
        lifecycle = self.lifecycle
        assert (lifecycle.state is State.ENDED) == (self.closed is not None)
        assert lifecycle.is_served == (self.closed is None and self.expected is not None)
        assert lifecycle.grant is (self.expected if lifecycle.is_served else NOTHING)
        if self.closed is None and self.expected is None:
            assert self.now < self.deadline
        elif self.closed is None and self.expected is not None and self.expected.expires_at is not None:
            assert self.now < self.expected.expires_at, "not served beyond its end"


TestLifecycle = Lifecycle.TestCase
