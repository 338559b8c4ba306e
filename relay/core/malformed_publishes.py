"""Who publishes what is malformed: counted by source and reason, for a limited number of them."""

from dataclasses import dataclass

from relay.core.status import MAX_MALFORMED, Malformed

#: Characters of an error, and of the beginning of a message, that are kept.
_MAX_ERROR = 200
_MAX_EXAMPLE = 120


@dataclass(slots=True)
class _Entry:
    count: int
    last_at: float
    error: str
    example: str


class MalformedPublishes:
    """Counts malformed publishes. Of more sources and reasons than `MAX_MALFORMED`, the longest silent are forgotten."""

    def __init__(self) -> None:
        #: By source, client and code; the latest is the last.
        self._entries: dict[tuple[str, str | None, str], _Entry] = {}

    def record(
        self, now: float, source: str, code: str, error: str, message: bytes = b"", client: str | None = None
    ) -> None:
        """Count one.

        Args:
            now: The monotonic time in seconds.
            source: Where it was published.
            code: What is wrong, as a short name.
            error: What is wrong, as a sentence.
            message: What was published, where that is at hand.
            client: Who published it, where that is known.
        """
        key = source, client, code
        entry = self._entries.pop(key, None) or _Entry(0, now, "", "")
        entry.count += 1
        entry.last_at = now
        entry.error = error[:_MAX_ERROR]
        entry.example = _printable(message[: 4 * _MAX_EXAMPLE])[:_MAX_EXAMPLE]
        self._entries[key] = entry
        if len(self._entries) > MAX_MALFORMED:
            del self._entries[next(iter(self._entries))]

    def report(self, now: float) -> list[Malformed]:
        """Return what was counted, the latest first. `now` is the monotonic time in seconds."""
        return [
            Malformed(
                source, client, code, entry.count, max(0.0, now - entry.last_at), entry.error, entry.example or None
            )
            for (source, client, code), entry in reversed(self._entries.items())
        ]


def _printable(message: bytes) -> str:
    """Return a message as text that no terminal takes for anything else."""
    return "".join(each if each.isprintable() else "\ufffd" for each in message.decode(errors="replace"))
