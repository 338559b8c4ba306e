"""The one table of Redis' errors: which may be raised at all, and which are worth another try."""

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterError,
    ConnectionError,
    MasterDownError,
    MovedError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

#: What a round trip to Redis may raise. redis-py's RedisClusterException is no RedisError.
REDIS_FAILURES = (RedisError, RedisClusterException, OSError)

#: Redis is away, starts, stops, or hands over to a replica; and the cluster moves a slot.
_RETRYABLE = (
    ConnectionError,
    TimeoutError,
    OSError,
    BusyLoadingError,
    ReadOnlyError,
    MasterDownError,
    ClusterError,
    RedisClusterException,
    MovedError,
    AskError,
    TryAgainError,
)

#: Errors of the same kind that redis-py has no classes for: a script that runs too long, too few replicas for a write, and a
#: slot that is on its way to another node, where the publish script makes a key of its own.
_RETRYABLE_TEXTS = ("BUSY ", "NOREPLICAS ", "non local key in a cluster node")

#: Connection errors that stay until somebody changes the configuration.
_PERMANENT = (AuthenticationError, AuthorizationError)


class NotEnoughReplicas(TimeoutError):
    """Redis has the update, and fewer replicas than were asked for."""


def is_retryable(error: BaseException) -> bool:
    """Return whether the same call may succeed a little later."""
    if isinstance(error, ResponseError) and any(text in str(error) for text in _RETRYABLE_TEXTS):
        return True
    return isinstance(error, _RETRYABLE) and not isinstance(error, _PERMANENT)
