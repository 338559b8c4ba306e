"""Why a subscription ends.

    RelayClientError
    +-- SubscriptionError           a subscription has ended; subscribe again once the reason is gone
        +-- SubscriptionRefused     the relay does not serve what was requested
        +-- RelayRefused            the relay, or a proxy before it, rejects this client for good
        +-- RelayUnreachable        there was no connection for `Limits.give_up_after` seconds
        +-- SubscriptionClosed      the block of `subscribe` was left

Nothing else ends one: after a broken connection or a restart of the relay the subscription resumes.
"""

from relay_client.errors import RelayClientError


class SubscriptionError(RelayClientError):
    """The subscription has ended for good."""


class SubscriptionRefused(SubscriptionError):
    """The relay does not serve a channel.

    Attributes:
        code: The error code, one of those in docs/protocol.md.
        channel: ``task:<id>`` or ``general``; None if the relay did not say which.
    """

    def __init__(self, code: str, message: str, channel: str | None) -> None:
        super().__init__(f"the relay refused {channel or 'a message'}: {message} ({code})")
        self.code = code
        self.channel = channel


class RelayRefused(SubscriptionError):
    """Reconnecting is of no use: because of the close code, the HTTP status or the certificate.

    Attributes:
        code: The WebSocket close code or the HTTP status; None if there was neither.
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class RelayUnreachable(SubscriptionError):
    """There was no connection for `Limits.give_up_after` seconds."""


class SubscriptionClosed(SubscriptionError):
    """The block of `subscribe` was left: there are no more updates."""
