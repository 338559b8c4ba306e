"""Errors of commands that have an exit status of their own."""

from relay_client.tail.errors import ExitStatus

from relay.core.errors import RelayError


class CommandError(RelayError):
    """A command cannot do what it was asked to; the message is one line that says what to do.

    Attributes:
        status: The exit status.
    """

    def __init__(self, message: str, status: ExitStatus) -> None:
        super().__init__(message)
        self.status = status
