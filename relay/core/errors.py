"""Relay's errors, one small tree:

    RelayError
    +-- ConfigError         a setting is wrong; the message names the variable and the remedy
    +-- BadMessage          a client or a publisher sent what cannot be read
    +-- BadGrant            a grant is malformed; the message says where
    +-- Unauthenticated     a client's credentials are missing or do not hold
    +-- Unverified          a client's credentials cannot be checked now
    +-- Forbidden           a client's grant does not cover what it asks for
    |   +-- ForeignOrigin       a page of another origin sends the visitor's cookies
    +-- BrokerError
        +-- BrokerUnavailable   Redis did not answer in time, or not at all: try again
        |   +-- BrokerBusy      too many others wait for Redis; it says when to try again
        +-- BrokerRefused       Redis answered with an error: the same call will fail again
            +-- StateTooLarge   the update would make its task's state larger than RELAY_MAX_STATE_BYTES
            +-- UpdateConflict  the update contradicts an earlier one

Errors of third-party packages are translated into these once, where they enter.
"""

from typing import TypeVar

from relay.core.closecodes import Close

_E = TypeVar("_E", bound=BaseException)


class RelayError(Exception):
    """Base of all errors that Relay raises on purpose."""


class ConfigError(RelayError):
    """A setting is missing, malformed or at odds with another one."""


class BadMessage(RelayError):
    """A message cannot be read. ``code`` is the short name that goes out to clients and into metrics."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class BadGrant(RelayError):
    """The claims of a grant are malformed. The message quotes names of claims, and nothing that is secret."""


class Unauthenticated(RelayError):
    """A client's credentials are missing or do not hold. The message has nothing of them in it.

    Attributes:
        code: A short name for clients and metrics.
        message: What is wrong, for the client.
        close: How a connection ends that has no other grant.
    """

    def __init__(self, code: str, message: str, close: Close) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.close = close


class Unverified(RelayError):
    """A client's credentials cannot be checked now. ``retry_after``: seconds after which another try makes sense."""

    code = "unverified"

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after


class Forbidden(RelayError):
    """A client's grant does not cover what it asks for. The same is raised for a task that does not exist."""

    code = "forbidden"
    message = "your grant does not cover this, or it does not exist"

    def __init__(self) -> None:
        super().__init__(self.message)


class ForeignOrigin(Forbidden):
    """A page of another origin sends the visitor's cookies."""

    code = "cookie_origin"
    message = "a page of this origin may not use cookies here; RELAY_ALLOWED_ORIGINS can name it"


class BrokerError(RelayError):
    """Redis did not do what was asked."""

    @property
    def public_message(self) -> str:
        """The text for clients, without details that name hosts, ports or keys."""
        return str(self).partition(": ")[0]


class BrokerUnavailable(BrokerError):
    """Redis cannot be reached, or did not answer before the deadline."""


class BrokerBusy(BrokerUnavailable):
    """Too many requests wait for Redis already. ``retry_after``: seconds after which another try makes sense."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BrokerRefused(BrokerError):
    """Redis answered with an error. ``is_out_of_memory``: it has reached its maxmemory and takes no more writes."""

    def __init__(self, message: str, *, is_out_of_memory: bool = False) -> None:
        super().__init__(message)
        self.is_out_of_memory = is_out_of_memory


class StateTooLarge(BrokerRefused):
    """An update was refused, and nothing of it recorded: with it the state of its task would be larger than is allowed."""


class UpdateConflict(BrokerRefused):
    """An update was refused, and nothing of it recorded, for it contradicts an earlier one. ``code`` is a name for clients."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def public_message(self) -> str:
        return str(self)


def leaves(group: BaseExceptionGroup[_E]) -> list[_E]:
    """Return the errors in a group, and in the groups in it, in order."""
    found: list[_E] = []
    for error in group.exceptions:
        found += leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
