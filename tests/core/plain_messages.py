"""Plain messages of tests: each is a number."""

from collections.abc import Iterator, Sequence

from relay.core.occurrences import CountedMessage
from relay.core.updates import Update

#: By the last digit of a message, other than the one task's that all others are of.
OTHER_CHANNELS = {3: "task:u", 4: "task:u", 6: "general", 9: "task:v"}


def channel_of(number: int) -> str:
    return OTHER_CHANNELS.get(number % 10, "task:t")


def update(number: int, received_at: float, size: int = 0) -> Update:
    return Update(channel_of(number), "task_update", b"%d" % number + b" " * size, received_at)


def by_promise(numbers: Sequence[int]) -> list[dict[str, list[int]]]:
    """Return messages as the promise orders them: by channel, and all of them before or behind each general one."""
    parts: list[dict[str, list[int]]] = [{}]
    for number in numbers:
        channel = channel_of(number)
        parts[-1].setdefault(channel, []).append(number)
        if channel == "general":
            parts.append({})
    return parts


def counted(number: int = 0) -> CountedMessage:
    return CountedMessage(str(number), 1, 0.0, 0.0)


def requests(name: str) -> Iterator[bytes]:
    number = 0
    while True:
        number += 1
        yield f"{name}{number}".encode()
