"""The errors of Relay's clients, one tree:

    RelayClientError                root of all errors of relay_client and relay_jobs
    +-- GrantError                  a grant cannot be made as it was asked for, see `relay_client.grants`
    +-- SubscriptionError           a subscription has ended, see `relay_client.subscriber.errors`
    +-- NotDelivered                Redis has not acknowledged an update
        +-- BufferFull              too many updates wait for Redis
        +-- DeliveryTimedOut        not acknowledged within the deadline
        +-- DeliveryRefused         Redis answered with an error that another try would meet again
        |   +-- StateTooLarge       what an update appends does not fit into the state of its task
        +-- PublisherClosed         the publisher was closed before
        +-- BackgroundDeliveryError  some posted updates were lost; raised by ``flush()`` and ``close()``

An update that cannot be published at all (not JSON, too long, an invalid task id) is a ValueError or TypeError, raised where it
is given.
"""

from collections.abc import Sequence


class RelayClientError(Exception):
    """Root of the errors that Relay's clients define."""


class NotDelivered(RelayClientError):
    """Redis has not acknowledged an update.

    Attributes:
        channel: Channel of the update: ``task:<id>``, ``general``, ...
        may_have_arrived: Whether it was sent and only the answer is missing: it may have been published, or still be.
    """

    def __init__(self, message: str, channel: str = "", *, may_have_arrived: bool = False) -> None:
        super().__init__(message)
        self.channel = channel
        self.may_have_arrived = may_have_arrived


class BufferFull(NotDelivered):
    """More updates wait than ``max_waiting`` or ``max_waiting_bytes`` allow: Redis is away, or slower than the publishers."""


class DeliveryTimedOut(NotDelivered):
    """The deadline has passed. Its cause is the last error of Redis or the network."""


class DeliveryRefused(NotDelivered):
    """Redis answered with an error that the same call would meet again, for instance a missing permission."""


class StateTooLarge(DeliveryRefused):
    """What an update appends does not fit into the state of its task. The other fields of the update were stored."""


class PublisherClosed(NotDelivered):
    """The publisher was closed, or its block was left."""


class BackgroundDeliveryError(NotDelivered):
    """Posted updates were lost since the last ``flush()``.

    Attributes:
        failures: The first of them, at most 100.
        count: How many there are.
    """

    def __init__(self, failures: Sequence[NotDelivered], count: int) -> None:
        first = failures[0]
        super().__init__(f"{count} posted updates were not delivered; the first: {first}", first.channel)
        self.failures = tuple(failures)
        self.count = count
