"""The last values of a task's fields, and which of them are still to be sent.

    merge() ... merge() -> fields -> taken -> acknowledged
                             ^         |
                             +---------+  not delivered: to be taken again

Merging only writes the last values, and takes no lock: any thread, signal handler or finalizer may merge. All else is left to
the sender: its thread, or its event loop.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from relay_client.progress.values import is_same

#: Changes of stage that are kept apart while they wait; of more, the oldest are merged.
_MAX_STAGES = 16

#: How often the sender looks again for a stage that ended while it looked.
_MAX_ATTEMPTS = 10


class FieldChanges:
    """The fields of one task, and what of them was taken and acknowledged.

    Attributes:
        fields: The last values of all that was ever reported.
        is_noted: Something was merged or requeued since the last `take`.
        unacknowledged: Names of the fields that were taken and are not acknowledged.
    """

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self.is_noted = False
        self._stage: str | None = None
        self._ended_stages: list[dict[str, Any]] = []  # the fields when each of them ended
        # The sender's alone:
        self._taken: dict[str, Any] = {}  # what was taken of the fields
        self.unacknowledged: set[str] = set()

    def merge(
        self, progress: float | None, message: str | None, stage: str | None, fields: Mapping[str, Any] | None
    ) -> bool:
        """Merge a report; return whether it is the first since the last `take`."""
        if stage is not None and stage != self._stage:
            if self._stage is not None:
                self._ended_stages.append(self.fields.copy())  # before anything of the next one is written
                del self._ended_stages[:-_MAX_STAGES]
            self.fields["stage"] = self._stage = stage
        # Each of these is atomic, and is before the look at `is_noted`, which the sender resets before it looks at these.
        if progress is not None:
            self.fields["progress"] = progress
        if message is not None:
            self.fields["message"] = message
        if fields:
            self.fields.update(fields)
        if self.is_noted:
            return False
        self.is_noted = True
        return True

    def set_defaults(self, fields: Mapping[str, Any]) -> None:
        """In the sender: merge fields, but for those that have a value already."""
        for name, value in fields.items():
            self.fields.setdefault(name, value)
        for ended in tuple(self._ended_stages):  # after the fields: a stage that ends from now on has them
            for name, value in fields.items():
                ended.setdefault(name, value)
        self.is_noted = True

    def set_first_fields(self, fields: Mapping[str, Any]) -> None:
        """Set the first fields, which are sent otherwise."""
        self.fields.update(fields)
        self._taken.update(fields)

    def take(self) -> list[dict[str, Any]]:
        """Take what differs from what was taken before: one part for each stage."""
        self.is_noted = False
        parts: list[dict[str, Any]] = []
        fields = self.fields
        for _ in range(_MAX_ATTEMPTS):
            while self._ended_stages:
                parts.append(self._difference(self._ended_stages.pop(0)))
            fields = self.fields.copy()
            if not self._ended_stages:
                break  # else a stage has ended meanwhile, and comes before these
        parts.append(self._difference(fields))
        return [part for part in parts if part]

    def _difference(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        taken = self._taken
        part = {name: value for name, value in fields.items() if not is_same(value, taken.get(name, self))}
        taken.update(part)
        return part

    def sending(self, names: Iterable[str]) -> None:
        """Note that fields of these names are on their way."""
        self.unacknowledged.update(names)

    def acknowledged(self) -> None:
        """Note that what was taken has arrived."""
        self.unacknowledged.clear()

    def requeue(self) -> None:
        """Note that what was taken has not arrived: it is to be taken again."""
        for name in self.unacknowledged:
            self._taken.pop(name, None)
        self.unacknowledged.clear()
        self.is_noted = True

    def requeue_all(self) -> None:
        """Note that Redis has lost the task: all that is known of it is to be taken again."""
        self.unacknowledged.update(self._taken)
        self.requeue()
