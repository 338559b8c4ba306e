"""What is appended to a task's fields: pieces are joined while they wait, and each is sent once.

A chunk is taken, with an idempotency key, and sent with the same key until Redis has acknowledged or refused it, so that a lost
answer appends nothing twice. Where Redis has lost the task, the whole values are sent instead.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from relay_client.errors import DeliveryRefused
from relay_client.publishing.call import Call
from relay_client.updates import Updates

#: Characters of a piece at most, longer ones are cut; and of a chunk, give or take one piece. JSON may take six times as much.
_MAX_PIECE = 16 * 1024
_MAX_CHUNK = 64 * 1024


class Appends:
    """The fields of one task that grow. Any thread may add pieces; all else is the sender's.

    Attributes:
        names: The names of the fields, and whether they are texts or lists.
    """

    def __init__(self) -> None:
        self.names: dict[str, type] = {}
        self._failure: Exception | None = None
        self._pieces: deque[tuple[str, Any]] = deque()
        self._whole: dict[str, list[Any]] = {}  # all that was taken of each field
        self._size = 0
        self._closed: set[str] = set()  # fields that Redis has no room for
        self._chunk: dict[str, Any] = {}
        self._key = ""
        self._is_whole = False
        self._calls: list[Call] = []

    @property
    def failure(self) -> Exception | None:
        """Why something was not appended: for good, or, when the task has ended, at the end."""
        return self._failure or next((call.error for call in self._calls if call.error is not None), None)

    def add(self, name: str, delta: str | list[Any]) -> None:
        """Add a piece. Raises TypeError if the field is of another type, and ValueError if there is no room for more."""
        if name in self._closed:
            raise ValueError(f"the field {name!r} is full (RELAY_MAX_STATE_BYTES)")
        if self.names.setdefault(name, type(delta)) is not type(delta):
            raise TypeError(f"the field {name!r} is a {self.names[name].__name__}, not a {type(delta).__name__}")
        for start in range(0, len(delta), _MAX_PIECE):
            self._pieces.append((name, delta[start : start + _MAX_PIECE]))

    def has_pending(self) -> bool:
        """Whether there is something to send."""
        return bool(self._pieces or self._chunk)

    def take(self, task_id: str, updates: Updates) -> list[Call]:
        """Return the calls that append what waits: the chunk that is not acknowledged yet first, and alone."""
        if not self._chunk:
            self._next_chunk(updates.retention.max_state_bytes)
        if not self._chunk:
            return []
        fields = self._chunk if self._is_whole else {name: {"$append": value} for name, value in self._chunk.items()}
        try:
            self._calls = updates.task_update(task_id, fields, key=self._key)
        except (TypeError, ValueError) as error:
            self._refuse(error)
            return []
        return self._calls

    def take_more(self, task_id: str, updates: Updates) -> list[Call]:
        """Return the calls of the next chunk although the one before is not acknowledged: nothing is sent afterwards."""
        if not self._pieces:
            return []
        earlier = self._calls
        self._chunk = {}
        calls = self.take(task_id, updates)
        self._calls = [*earlier, *calls]
        return calls

    def _next_chunk(self, max_size: int) -> None:
        size = 0
        joined: dict[str, list[Any]] = {}
        while self._pieces and size < _MAX_CHUNK:
            name, piece = self._pieces.popleft()
            if name in self._closed:
                continue
            joined.setdefault(name, []).append(piece)
            size += len(piece)
        self._size += size
        self._key, self._is_whole = uuid4().hex, False
        self._chunk = {name: _joined(pieces) for name, pieces in joined.items()}
        for name, value in self._chunk.items():
            self._whole.setdefault(name, []).append(value)
        if self._size > max_size:
            self._refuse(ValueError(f"what is appended exceeds {max_size} bytes (RELAY_MAX_STATE_BYTES)"))

    def _refuse(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._closed.update(self._chunk)
        self._chunk, self._calls = {}, []

    def acknowledged(self) -> None:
        """Note that what was taken has arrived."""
        self._chunk, self._calls = {}, []

    def requeue(self) -> None:
        """Note that what was taken may not have arrived: it is sent again, unless Redis refuses it."""
        for call in self._calls:
            if isinstance(call.error, DeliveryRefused):
                self._refuse(call.error)
                break
            if not call.is_settled or call.error is not None:
                break
        else:
            if self._calls:
                self.acknowledged()

    def requeue_all(self) -> None:
        """Note that Redis has lost the task: the whole values are sent."""
        self._whole = {name: [_joined(pieces)] for name, pieces in self._whole.items() if pieces}
        self._chunk = {name: pieces[0] for name, pieces in self._whole.items()}
        self._key, self._is_whole = uuid4().hex, True
        self._calls = []

    def plain(self, fields: Mapping[str, Any]) -> None:
        """Check that fields that are set do not grow as well. Raises ValueError."""
        for name in fields:
            if name in self.names:
                raise ValueError(f"the field {name!r} is appended to; it cannot be set as well")


def _joined(pieces: list[Any]) -> Any:
    return "".join(pieces) if isinstance(pieces[0], str) else [each for piece in pieces for each in piece]
