"""Which tasks a list is to have."""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from relay_wire.channels import TASK_PREFIX

from relay.core.grants import Decision, Grant, Verb
from relay.core.task_state import status_of

#: The fields of a task that a filter looks at, and those of them in which a text is looked for.
FILTER_FIELDS = ("status", "kind", "title", "message")
_TEXT_FIELDS = ("title", "message")

_decode_text = msgspec.json.Decoder(str).decode


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """What a task must be like. Everything that is given must hold.

    Attributes:
        statuses: It has one of these.
        max_age: It was active within so many seconds.
        owners: It is owned by one of these users and groups.
        parent_id: It has this parent.
        kinds: Its field ``kind`` is one of these.
        text: Its id, its ``title`` or its ``message`` contains this text, whatever the case of the letters.
        visible_to: The grant of a client that may list it; None where that may list everything.
    """

    statuses: frozenset[str] | None = None
    max_age: float | None = None
    owners: frozenset[str] | None = None
    parent_id: str | None = None
    kinds: frozenset[str] | None = None
    text: str | None = None
    visible_to: Grant | None = None

    @property
    def needs_fields(self) -> bool:
        """Whether a task has to be looked at: its place in an index is not enough."""
        if self.visible_to is not None and self.visible_to.scope(Verb.LIST).owned:
            return True
        wanted = (self.statuses, self.owners, self.parent_id, self.kinds, self.text)
        return any(each is not None for each in wanted)

    @property
    def field_names(self) -> tuple[str, ...]:
        """The fields of a task that have to be looked at, beside its owner and its parent."""
        return FILTER_FIELDS if any(each is not None for each in (self.statuses, self.kinds, self.text)) else ()

    def may_match(self, task_id: str) -> bool:
        """Whether a task may be wanted, as far as its id says."""
        return self._visibility(task_id, None) is not Decision.DENIED

    def _visibility(self, task_id: str, owner: frozenset[str] | None) -> Decision:
        if self.visible_to is None:
            return Decision.ALLOWED
        return self.visible_to.decide(Verb.LIST, TASK_PREFIX + task_id, owner)

    def matches(self, task_id: str, fields: Mapping[str, bytes], owner: frozenset[str], parent_id: str | None) -> bool:
        """Whether a task is wanted.

        Args:
            task_id: Its id.
            fields: Those of `field_names` that it has, as JSON text.
            owner: Its owner.
            parent_id: Its parent's id.
        """
        if self._visibility(task_id, owner) is not Decision.ALLOWED:
            return False
        if self.owners is not None and self.owners.isdisjoint(owner):
            return False
        if self.parent_id is not None and self.parent_id != parent_id:
            return False
        if self.statuses is not None and status_of(fields) not in self.statuses:
            return False
        if self.kinds is not None and _text_of(fields.get("kind")) not in self.kinds:
            return False
        if self.text is None:
            return True
        texts = (task_id, *(_text_of(fields.get(name)) or "" for name in _TEXT_FIELDS))
        return any(self.text.casefold() in text.casefold() for text in texts)


EVERY_TASK = TaskFilter()


def _text_of(value: bytes | None) -> str | None:
    try:
        return None if value is None else _decode_text(value)
    except msgspec.DecodeError:
        return None
