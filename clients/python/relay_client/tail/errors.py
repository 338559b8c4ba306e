"""The errors of `relay tail`, and the exit statuses of the command."""

from enum import IntEnum

from relay_client.errors import RelayClientError


class ExitStatus(IntEnum):
    """The exit statuses of `relay`, so that scripts can tell them apart. 1 is an unexpected error, 130 is Ctrl-C."""

    SUCCESS = 0
    USAGE = 2
    TASK_FAILED = 3
    TASK_CANCELLED = 4
    UNREACHABLE = 5
    REFUSED = 6
    WARNINGS_FOUND = 7
    ERRORS_FOUND = 8


class TailError(RelayClientError):
    """The relay cannot be followed.

    Attributes:
        status: The exit status of the command.
    """

    def __init__(self, message: str, status: ExitStatus) -> None:
        super().__init__(message)
        self.status = status
