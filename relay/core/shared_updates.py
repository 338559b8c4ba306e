"""Updates of a history that many clients get: what each format makes of them is made once for all of these clients."""

from collections.abc import Callable, Hashable
from typing import TypeVar

from relay.core.batches import Batch, Format
from relay.core.updates import Update

_T = TypeVar("_T")

#: Encodings that are kept of the same updates. Few clients have a format of their own, and they may encode for themselves.
MAX_ENCODINGS = 8


class SharedUpdates(tuple[Update, ...]):
    """Consecutive updates of a channel.

    What is encoded lives as long as they do: until the clients that read them together have got them.
    """

    _encodings: dict[Hashable, object]

    @property
    def encodings(self) -> dict[Hashable, object]:
        """What was made of them so far."""
        try:
            return self._encodings
        except AttributeError:
            self._encodings = {}
            return self._encodings

    def encoded(self, key: Hashable, encode: Callable[[], _T]) -> _T:
        """Return what a function makes of the updates: the same object for all that ask with the same key."""
        encodings = self.encodings
        known = encodings.get(key)
        if known is None:
            known = encode()
            if len(encodings) < MAX_ENCODINGS:
                encodings[key] = known
        return known  # type: ignore[return-value]  # what is kept under a key is what was made for it

    @property
    def has_operations(self) -> bool:
        """There are operations on fields among them."""
        return self.encoded("has_operations", lambda: any(update.has_operations for update in self))

    @property
    def size(self) -> int:
        """Bytes of their data."""
        return self.encoded("size", lambda: sum(len(update.data) for update in self))

    def pages(self, format: Format, max_updates: int, max_bytes: int) -> tuple[Batch, ...]:
        """Return the updates as batches.

        Args:
            format: A format that is not stateful.
            max_updates: Updates in a batch at most.
            max_bytes: Bytes of their data in a batch at most, give or take one update.
        """
        return self.encoded(format, lambda: tuple(self._paged(format, max_updates, max_bytes)))

    def _paged(self, format: Format, max_updates: int, max_bytes: int) -> list[Batch]:
        pages: list[Batch] = []
        page: list[Update] = []
        size = 0
        for update in self:
            if page and (len(page) >= max_updates or size >= max_bytes):
                pages.append(format.batch(page))
                page, size = [], 0
            page.append(update)
            size += len(update.data)
        if page:
            pages.append(format.batch(page))
        return pages
