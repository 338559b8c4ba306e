"""The error and disconnect codes of the Centrifuge protocol, and which of Relay's own reasons each stands for."""

from enum import Enum

from relay.core.closecodes import Close


class ErrorCode(Enum):
    """An error reply: its code, its message, and whether the client may try again."""

    INTERNAL = (100, "internal server error", True)
    UNAUTHORIZED = (101, "unauthorized", False)
    UNKNOWN_CHANNEL = (102, "unknown channel", False)
    PERMISSION_DENIED = (103, "permission denied", False)
    METHOD_NOT_FOUND = (104, "method not found", False)
    ALREADY_SUBSCRIBED = (105, "already subscribed", False)
    LIMIT_EXCEEDED = (106, "limit exceeded", False)
    BAD_REQUEST = (107, "bad request", False)
    NOT_AVAILABLE = (108, "not available", False)
    TOKEN_EXPIRED = (109, "token expired", False)
    TOO_MANY_REQUESTS = (111, "too many requests", True)
    UNRECOVERABLE = (112, "unrecoverable position", False)

    def __init__(self, code: int, message: str, temporary: bool) -> None:
        self.code = code
        self.message = message
        self.temporary = temporary


#: What the session's own refusals of a subscription are in this protocol.
ERROR_OF = {
    "forbidden": ErrorCode.PERMISSION_DENIED,
    "too_many_subscriptions": ErrorCode.LIMIT_EXCEEDED,
    "unavailable": ErrorCode.INTERNAL,
}

#: The codes and reasons of unsubscribe pushes, by the session's reasons. Below 2500 the client does not subscribe again.
UNSUBSCRIBE_OF = {
    "unsubscribed": (2000, "server unsubscribe"),
    "forbidden": (2000, "permission denied"),
    "unavailable": (2500, "insufficient state"),
    "subscription_expired": (2501, "subscription expired"),
}
INSUFFICIENT_STATE = (2500, "insufficient state")

#: Disconnects, by Relay's close codes. Those that are not here are sent as they are: clients reconnect after codes below 3500
#: and from 4000 to 4499, and never after 3500 to 3999.
DISCONNECT_OF = {
    Close.SHUTDOWN: (3001, "shutdown"),
    Close.BINARY: (3501, "bad request"),
    Close.TOO_MANY_ERRORS: (3509, "too many errors"),
    Close.INTERNAL_ERROR: (3004, "internal server error"),
    Close.UNVERIFIED: (3004, "internal server error"),
    Close.SLOW_MESSAGES: (3008, "slow"),
    Close.SLOW_BYTES: (3008, "slow"),
    Close.SLOW_AGE: (3008, "slow"),
    Close.FLOODING: (3013, "too many requests"),
    Close.CLIENT_LIMIT: (3013, "too many requests"),
    Close.UNAUTHENTICATED: (3502, "stale"),
    Close.TOKEN_EXPIRED: (3005, "connection expired"),
    Close.FORBIDDEN: (3507, "permission denied"),
    Close.INVALID_TOKEN: (3500, "invalid token"),
    Close.REVOKED: (3500, "token revoked"),
}
