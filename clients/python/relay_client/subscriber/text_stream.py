"""A text that grows, in pieces: what is new of it with each update, however the updates came."""

from collections.abc import Sequence

from relay_client.subscriber.channel_state import task_channel
from relay_client.subscriber.update import Update


def channel_of_stream(tasks: Sequence[str], task_id: str | None) -> str:
    """Return the channel of the task that is streamed. Raises ValueError if it is not clear which one that is."""
    if task_id is None:
        if len(tasks) != 1:
            raise ValueError(f"name the task whose text to stream: {len(tasks)} are followed")
        task_id = tasks[0]
    return task_channel(task_id)


class TextChunk(str):
    """A piece of a text.

    Attributes:
        is_restart: What came before is not the beginning of the text any more: it was replaced, or the task began again.
    """

    __slots__ = ("is_restart",)
    is_restart: bool

    def __new__(cls, text: str, *, is_restart: bool = False) -> "TextChunk":
        """Make a piece."""
        chunk = super().__new__(cls, text)
        chunk.is_restart = is_restart
        return chunk


class TextStream:
    """Takes updates of one task, and returns what is new of one field.

    After a reconnection that could not resume, the task's state has the whole text: only what was not returned yet is new.

    Args:
        channel: The channel of the task.
        field: The field's name.
        text: What the caller has of it already.
    """

    def __init__(self, channel: str, field: str, text: str = "") -> None:
        self._channel = channel
        self._field = field
        self._text = text
        #: The task has ended.
        self.has_ended = False

    def feed(self, update: Update) -> TextChunk | None:
        """Return what an update adds to the text; None if that is nothing."""
        if update.channel != self._channel or update.is_reset:
            return None  # a reset is followed by the state, if there is one
        self.has_ended = update.is_terminal
        value = update.state.get(self._field)
        text = value if isinstance(value, str) else ""
        known, self._text = self._text, text
        if text.startswith(known):
            return TextChunk(text[len(known) :]) if len(text) > len(known) else None
        return TextChunk(text, is_restart=True)
