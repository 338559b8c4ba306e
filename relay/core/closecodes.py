"""The one registry of close codes: what each means, who sends it, and whether to reconnect.

1000-1015 are those of RFC 6455 section 7.4 and of IANA's registry; 3000-3999 are those of the Centrifuge protocol, 4000-4999
are Relay's own. docs/protocol.md shows the same table, and a test keeps the two alike.
"""

from enum import Enum


class Close(Enum):
    """A way in which a session ends: the WebSocket close code, the reason that goes with it, the metrics label."""

    # Only ever repeated to a client that closed: where it comes unasked, a proxy sent it.
    NORMAL = (1000, "", "client_closed", True)
    SHUTDOWN = (1001, "relay is shutting down", "shutdown", True)
    PROTOCOL_ERROR = (1002, "WebSocket protocol error", "protocol_error", False)
    BINARY = (1003, "binary messages are not supported", "binary", False)
    ABNORMAL_CLOSURE = (1006, "", "gone", True)
    INVALID_TEXT = (1007, "text is not valid UTF-8", "invalid_utf8", False)
    TOO_MANY_ERRORS = (1008, "too many malformed messages", "too_many_errors", False)
    TOO_BIG = (1009, "message too big", "message_too_big", False)
    INTERNAL_ERROR = (1011, "internal error", "internal_error", True)
    FULL = (1013, "too many clients", "too_many_clients", True)
    UNVERIFIED = (1013, "credentials cannot be checked now", "unverified", True)
    INSUFFICIENT_STATE = (3010, "insufficient state", "insufficient_state", True)
    NO_PONG = (3012, "no pong", "no_pong", True)
    BAD_REQUEST = (3501, "bad request", "bad_request", False)
    DISCONNECTED = (3503, "force disconnect", "disconnected", False)
    NOT_AVAILABLE = (3508, "not available", "not_available", False)
    SLOW_MESSAGES = (4008, "slow: too many messages waiting", "slow_messages", True)
    SLOW_BYTES = (4008, "slow: too many bytes waiting", "slow_bytes", True)
    SLOW_AGE = (4008, "slow: messages waited too long", "slow_age", True)
    MESSAGE_TIMEOUT = (4009, "message begun but not finished in time", "message_timeout", True)
    FLOODING = (4010, "too many messages from this client", "flooding", True)
    UNAUTHENTICATED = (4401, "no token: connect again and authenticate", "unauthenticated", True)
    TOKEN_EXPIRED = (4401, "token expired: connect again with a new one", "token_expired", True)
    FORBIDDEN = (4403, "forbidden", "forbidden", False)
    INVALID_TOKEN = (4403, "token invalid", "invalid_token", False)
    REVOKED = (4403, "token revoked", "revoked", False)
    CLIENT_LIMIT = (4429, "too many connections of this address or user", "client_limit", True)

    def __init__(self, code: int, reason: str, label: str, reconnect: bool) -> None:
        self.code = code
        self.reason = reason
        self.label = label
        self.reconnect = reconnect

    @property
    def is_slow(self) -> bool:
        """The client could not keep up: what waits for it is discarded."""
        return self.code == 4008

    @property
    def discards_queue(self) -> bool:
        """What waits for the client is not delivered: it was too slow for it, or may not have it any more."""
        return self.is_slow or self.code in (4401, 4403)

    @property
    def is_drop(self) -> bool:
        """Relay ended it because of something the client did or did not do."""
        return self not in (Close.NORMAL, Close.SHUTDOWN, Close.ABNORMAL_CLOSURE)
