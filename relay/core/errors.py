"""Relay's errors, one small tree:

    RelayError
    +-- ConfigError         a setting is wrong; the message names the variable and the mend
    +-- BadMessage          a client or a publisher sent what cannot be read
    +-- BrokerError
        +-- BrokerUnavailable   Redis did not answer in time, or not at all: try again
        +-- BrokerRefused       Redis answered with an error: the same call will fail again

Errors of third-party packages are translated into these once, where they enter.
"""


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


class BrokerError(RelayError):
    """Redis did not do what was asked."""


class BrokerUnavailable(BrokerError):
    """Redis cannot be reached, or did not answer before the deadline."""


class BrokerRefused(BrokerError):
    """Redis answered with an error. ``is_out_of_memory``: it has reached its maxmemory and takes no more writes."""

    def __init__(self, message: str, *, is_out_of_memory: bool = False) -> None:
        super().__init__(message)
        self.is_out_of_memory = is_out_of_memory
