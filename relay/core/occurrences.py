"""How often this relay has received each plain message: what the ingest script needs to persist every message once.

The n-th time that a relay receives the same bytes is the n-th time that they were published, counted from what had been
persisted before it began to listen, or to count. So two equal messages that are meant as two stay two, and a relay that starts,
or dies, between them changes nothing.
"""

from collections import OrderedDict
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
    """Counts the plain messages that one relay receives."""

    def __init__(self, now: float) -> None:
        """Begin to count at the monotonic time `now`."""
        # In the order of their last occurrence. A dict would take longer and longer to find its oldest one.
        self._counts: OrderedDict[str, CountedMessage] = OrderedDict()
        self._listening_since = now

    def restart(self, now: float) -> None:
        """Something may have been missed: count everything again from here on."""
        self._counts.clear()
        self._listening_since = now

    def count(self, message: bytes, now: float) -> CountedMessage:
        """Count a message that was received at the monotonic time `now`."""
        digest = blake2b(message, digest_size=12).hexdigest()
        counts = self._counts
        known = counts.pop(digest, None)
        if known is None or now - known.last > DEDUP_WINDOW:
            # Other relays may have persisted it a little before us, but nothing of before we listened was this one.
            since = self._listening_since
            counted = _counted(CountedMessage, (digest, 1, since if since > now - MAX_LAG else now - MAX_LAG, now))
        else:
            counted = _counted(CountedMessage, (digest, known.number + 1, known.since, now))
        counts[digest] = counted  # behind all others
        # As one comes, up to two of the oldest go.
        for _ in range(2):
            if now - next(iter(counts.values())).last <= DEDUP_WINDOW and len(counts) <= MAX_DIGESTS:
                break
            counts.popitem(last=False)
        return counted

    def on_persisted(self, counted: CountedMessage, previous: int) -> None:
        """Redis said how often a message had been persisted before we began to count: from now on we count those as well."""
        known = self._counts.get(counted.digest)
        if known is not None and known.since and known.since == counted.since:
            digest, number, _, last = known
            self._counts[digest] = _counted(CountedMessage, (digest, number + previous, 0.0, last))
