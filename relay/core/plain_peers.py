"""What one relay knows of the others, for `relay.core.plain_agreement`. Times are of the monotonic clock."""

from math import inf

#: Relays that are remembered at most: the last from which a message came.
_MAX_PEERS = 1000


class Peer:
    """Another relay.

    Attributes:
        persisted_until: All that it received and that was published before this time is persisted.
        holding_since: Since when it holds back, in milliseconds on Redis' clock; None unless it has said so last.
        unanswered: How many of our requests came since its last message.
        silent_since: When the first request of any relay came since its last message.
        is_seen: A message from it came on the present connection.
    """

    __slots__ = ("holding_since", "is_seen", "persisted_until", "silent_since", "unanswered")

    def __init__(self) -> None:
        self.persisted_until = -inf
        self.holding_since: int | None = None
        self.unanswered = 0
        self.silent_since = inf
        self.is_seen = False


class Peers:
    """The other relays, by name."""

    def __init__(self, max_silence: float, max_unanswered: int) -> None:
        """Make it without any.

        Args:
            max_silence: Seconds after which one is forgotten that does not answer.
            max_unanswered: Our requests in a row that one may leave unanswered before what it holds back is not waited for.
        """
        self._max_silence = max_silence
        self._max_unanswered = max_unanswered
        self._peers: dict[bytes, Peer] = {}

    def __len__(self) -> int:
        return len(self._peers)

    def find(self, name: bytes) -> Peer | None:
        """Return one that is remembered."""
        return self._peers.get(name)

    @property
    def seen(self) -> int:
        """How many have sent a message on the present connection."""
        return sum(peer.is_seen for peer in self._peers.values())

    @property
    def persisted_until(self) -> float:
        """All that any of them received before this time is persisted."""
        return min((peer.persisted_until for peer in self._peers.values()), default=inf)

    def on_connecting(self, now: float) -> None:
        """There is a new connection."""
        self.forget_silent(now)
        for peer in self._peers.values():
            peer.is_seen = False

    def on_request(self, now: float, *, is_ours: bool) -> None:
        """A request has come: each has to answer it, but for the one that asks."""
        self.forget_silent(now)
        for peer in self._peers.values():
            peer.silent_since = min(peer.silent_since, now)
            peer.unanswered += is_ours

    def on_message_from(self, name: bytes) -> Peer:
        """A message from one has come."""
        peer = self._peers[name] = self._peers.pop(name) if name in self._peers else Peer()
        peer.is_seen = True
        peer.silent_since = inf
        peer.unanswered = 0
        if len(self._peers) > _MAX_PEERS:
            self.forget(next(iter(self._peers)))
        return peer

    def forget(self, name: bytes) -> None:
        """Do not wait for one any more."""
        self._peers.pop(name, None)

    def forget_silent(self, now: float) -> None:
        """Forget those that have not answered for too long: they were killed, for instance."""
        for name in [name for name, peer in self._peers.items() if now >= peer.silent_since + self._max_silence]:
            self.forget(name)

    def hold_earlier(self, name: bytes, since: int, received_by: float) -> bool:
        """Whether one that answers holds back what it received before a connection of ours.

        Of two relays that connected at the same time it is one only, by their names.

        Args:
            name: Our name.
            since: When the connection began, in milliseconds on Redis' clock.
            received_by: When it was receiving.
        """
        return any(
            peer.holding_since is not None
            and (peer.holding_since, other) < (since, name)
            and peer.persisted_until < received_by
            and peer.unanswered < self._max_unanswered
            for other, peer in self._peers.items()
        )
