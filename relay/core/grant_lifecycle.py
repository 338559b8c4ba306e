"""The grant of one open connection: from the first one to its end, with a notice before it."""

from enum import Enum, auto
from typing import NamedTuple

from relay.core.closecodes import Close
from relay.core.grants import NOTHING, Grant

#: A grant that ends sooner than the usual time of notice is noticed when so much of its time is left.
_SHORT = 0.5


class State(Enum):
    """Where a connection stands; the table is in `GrantLifecycle`."""

    AWAITING = auto()
    GRANTED = auto()
    NOTIFIED = auto()
    ENDED = auto()


class Notice(NamedTuple):
    """The grant ends after so many seconds; the client should renew it."""

    seconds: float


class GrantLifecycle:
    """Decides when a connection may be served, is to be notified, and is to be closed.

    =================  ===================================  ========  ==================================================
    state              event                                next      result
    =================  ===================================  ========  ==================================================
    AWAITING           a grant                              GRANTED   the client is served
    AWAITING           the deadline passes                  ENDED     Close.UNAUTHENTICATED
    GRANTED            the time of notice comes             NOTIFIED  Notice
    GRANTED, NOTIFIED  the grant ends                       ENDED     Close.TOKEN_EXPIRED
    GRANTED, NOTIFIED  another grant                        GRANTED   what the client follows is decided again
    any but ENDED      the grant is revoked                 ENDED     Close.REVOKED
    =================  ===================================  ========  ==================================================

    Times are in seconds of the Unix epoch, since a grant's are.

    Attributes:
        state: See above.
        grant: What the client may do now; nothing before there is a grant, and after the end.
    """

    __slots__ = ("_due", "grant", "state")

    def __init__(self, deadline: float) -> None:
        """Begin without a grant.

        Args:
            deadline: When the client must have one.
        """
        self.state = State.AWAITING
        self.grant = NOTHING
        self._due: float | None = deadline

    @property
    def next_check(self) -> float | None:
        """When `check` is to be called next; None if time changes nothing."""
        return self._due

    @property
    def is_served(self) -> bool:
        """The client has a grant."""
        return self.state in (State.GRANTED, State.NOTIFIED)

    def on_grant(self, grant: Grant, now: float, notice: float) -> None:
        """Note the first grant, or one that replaces the present one. One that has ended is noted too: call `check`.

        Args:
            grant: The grant.
            now: The present time.
            notice: Seconds before its end at which the client is to be notified.
        """
        if self.state is State.ENDED:
            return
        self.state = State.GRANTED
        self.grant = grant
        ends = grant.expires_at
        self._due = None if ends is None else ends - min(notice, (ends - now) * _SHORT)

    def check(self, now: float) -> Notice | Close | None:
        """Return what the time has brought: a notice, the end of the connection, or nothing."""
        if self._due is None or now < self._due:
            return None
        if self.state is State.AWAITING:
            return self._end(Close.UNAUTHENTICATED)
        ends = self.grant.expires_at
        assert ends is not None
        if now >= ends:
            return self._end(Close.TOKEN_EXPIRED)
        self.state = State.NOTIFIED
        self._due = ends
        return Notice(ends - now)

    def on_revoked(self) -> Close | None:
        """Note that the present grant no longer holds."""
        return None if self.state is State.ENDED else self._end(Close.REVOKED)

    def _end(self, close: Close) -> Close:
        self.state = State.ENDED
        self.grant = NOTHING
        self._due = None
        return close
