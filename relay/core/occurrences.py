"""How often this relay has received each plain message: what the ingest script needs to persist every message once.

The n-th time that a relay receives the same bytes is the n-th time that they were published, counted from what had been
persisted before it began to listen, or to count. So two equal messages that are meant as two stay two, and a relay that starts,
or dies, between them changes nothing.
"""

from hashlib import blake2b
from typing import NamedTuple

#: Seconds for which Redis remembers a digest, and for which a relay counts it: less, by more than relays differ in when they
#: receive a message.
DEDUP_TTL = 30.0
DEDUP_WINDOW = 12.0

#: Seconds by which one relay may receive a message later than another.
MAX_LAG = 5.0

#: Digests counted at most.
MAX_DIGESTS = 200_000

#: Digests that are forgotten as one comes: all at once would make clients wait.
_FORGET_AT_ONCE = 64


#: What `CountedMessage(...)` does, at half of its cost: there are two for each message.
_counted = tuple.__new__


class CountedMessage(NamedTuple):
    """A plain message, and the how-manieth time that this relay received its bytes.

    Attributes:
        digest: Names the bytes.
        number: Counted from 1, of those persisted since `since`.
        since: When counting began, in seconds of the monotonic clock; 0 if all that were ever persisted are counted.
        last: When the bytes were received last.
    """

    digest: str
    number: int
    since: float
    last: float


class OccurrenceCounter:
    """Counts the plain messages that one relay receives.

    Digests are in two generations, so that none has to be looked at to be forgotten: those of the last `DEDUP_WINDOW`, and
    those of the one before it.
    """

    def __init__(self, now: float) -> None:
        """Begin to count at the monotonic time `now`."""
        self._recent: dict[str, CountedMessage] = {}
        self._older: dict[str, CountedMessage] = {}
        self._forgotten: dict[str, CountedMessage] = {}  # still takes memory
        self._recent_until = now + DEDUP_WINDOW
        self._listening_since = now

    def restart(self, now: float) -> None:
        """Something may have been missed: count everything again from here on."""
        self._recent.clear()
        self._older.clear()
        self._listening_since = now

    def count(self, message: bytes, now: float) -> CountedMessage:
        """Count a message that was received at the monotonic time `now`."""
        digest = blake2b(message, digest_size=12).hexdigest()
        known = self._recent.get(digest) or self._older.get(digest)
        if known is None or now - known[3] > DEDUP_WINDOW:
            # Other relays may have persisted it a little before us, but nothing of before we listened was this one.
            since = self._listening_since
            counted = _counted(CountedMessage, (digest, 1, since if since > now - MAX_LAG else now - MAX_LAG, now))
        else:
            counted = _counted(CountedMessage, (digest, known.number + 1, known.since, now))
        if now > self._recent_until or len(self._recent) >= MAX_DIGESTS // 2:
            self._forgotten, self._older, self._recent = self._older, self._recent, {}
            self._recent_until = now + DEDUP_WINDOW
        self._recent[digest] = counted
        if self._forgotten:
            for _ in range(min(_FORGET_AT_ONCE, len(self._forgotten))):
                self._forgotten.popitem()
        return counted

    def on_persisted(self, counted: CountedMessage, previous: int) -> None:
        """Redis said how often a message had been persisted before we began to count: from now on we count those as well."""
        generation = self._recent if counted[0] in self._recent else self._older
        known = generation.get(counted[0])
        if known is not None and known[2] and known[2] == counted[2]:
            digest, number, _, last = known
            generation[digest] = _counted(CountedMessage, (digest, number + previous, 0.0, last))
