"""The errors of `relay tail`, and the exit statuses of the command."""

from enum import IntEnum

from relay_client.errors import RelayClientError


class ExitStatus(IntEnum):
    """The exit statuses of `relay`, so that scripts can distinguish them. 1 is an unexpected error, 130 is Ctrl-C."""

    SUCCESS = 0
    USAGE = 2
    TASK_FAILED = 3
    TASK_CANCELLED = 4
    UNREACHABLE = 5
    REFUSED = 6
    WARNINGS_FOUND = 7
    ERRORS_FOUND = 8


#: What each means, for help and documentation.
MEANINGS = {
    ExitStatus.SUCCESS: "success; the tasks completed",
    ExitStatus.USAGE: "an invalid option or setting",
    ExitStatus.TASK_FAILED: "a task failed",
    ExitStatus.TASK_CANCELLED: "a task was cancelled, none failed",
    ExitStatus.UNREACHABLE: "Redis or the relay cannot be reached",
    ExitStatus.REFUSED: "Redis or the relay refused",
    ExitStatus.WARNINGS_FOUND: "`relay doctor` found only warnings",
    ExitStatus.ERRORS_FOUND: "`relay doctor` found errors",
}


class TailError(RelayClientError):
    """The relay cannot be followed.

    Attributes:
        status: The exit status of the command.
    """

    def __init__(self, message: str, status: ExitStatus) -> None:
        super().__init__(message)
        self.status = status
