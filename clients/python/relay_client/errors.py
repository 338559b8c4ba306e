"""What this package raises, one small tree:

RelayClientError
+-- SubscriptionError           see `relay_client.subscriber.errors`
+-- NotDelivered

    NotDelivered            Redis has not acknowledged an update
    +-- BufferFull          too many wait already
    +-- DeliveryTimedOut    not within the deadline
    +-- DeliveryRefused     Redis answered with an error that would come again
    +-- PublisherClosed     it was closed before
    +-- PostsNotDelivered   some of the posted ones; raised by ``flush()`` and ``close()``

An update that cannot be published at all (no JSON, too long, a bad task id) is a ValueError or TypeError, at once.
"""

from collections.abc import Sequence


class RelayClientError(Exception):
    """The root of everything that this package raises for what is not wrong with the arguments."""


class NotDelivered(RelayClientError):
    """Redis has not acknowledged an update.

    channel:          what it was for: ``task:<id>``, ``general``, ...
    may_have_arrived: it was sent, and only the answer is missing: it may have been published, or still be
    """

    def __init__(self, message: str, channel: str = "", *, may_have_arrived: bool = False) -> None:
        super().__init__(message)
        self.channel = channel
        self.may_have_arrived = may_have_arrived


class BufferFull(NotDelivered):
    """More waits than ``max_waiting`` or ``max_waiting_bytes`` allow: Redis is away, or slower than the publishers."""


class DeliveryTimedOut(NotDelivered):
    """The deadline has passed. The cause is the error that Redis or the network gave last."""


class DeliveryRefused(NotDelivered):
    """Redis answered with an error that the same call would meet again, for instance for want of a permission."""


class PublisherClosed(NotDelivered):
    """The publisher was closed, or its block was left."""


class PostsNotDelivered(NotDelivered):
    """Posted updates were lost since the last ``flush()``.

    failures: the first of them, 100 at most
    count:    how many there are
    """

    def __init__(self, failures: Sequence[NotDelivered], count: int) -> None:
        first = failures[0]
        super().__init__(f"{count} posted updates were not delivered; the first: {first}", first.channel)
        self.failures = tuple(failures)
        self.count = count
