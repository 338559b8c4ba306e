"""The options of a task's creation: who owns it, and its parent. They stand beside an update's data, not in it."""

import json
from collections.abc import Iterable
from typing import NamedTuple

from relay_wire.channels import MAX_NAME_LENGTH

#: Most owners of a task. An owner's id has 1 to MAX_NAME_LENGTH characters.
MAX_OWNERS = 16

#: The field of a task's numbers that holds its parent's id.
PARENT_FIELD = "parent"

#: The first word of Redis' error when an update names another parent than the one that its task has.
PARENT_FIXED = "PARENTFIXED"

#: The same when the publisher may write only to tasks of its own, and the task is of others.
NOT_OWNER = "NOTOWNER"


class CreationOptions(NamedTuple):
    """What a publisher says about a task beside its fields.

    Attributes:
        owner: The users and groups that own the task; empty for nobody. None where it is not given: the task keeps its owner.
        parent_id: The id of the task's parent. None where it is not given: the task keeps its parent.
        writers: Refuse the update if the task exists and is owned by none of these. None: any owner will do.
    """

    owner: frozenset[str] | None = None
    parent_id: str | None = None
    writers: frozenset[str] | None = None


NO_OPTIONS = CreationOptions()


def creation_options(
    owner: str | Iterable[str] | None = None, parent_id: str | int | None = None, *, task_id: str | None = None
) -> CreationOptions:
    """Return checked options.

    Args:
        owner: The id of one user or group, or of several; an empty list for nobody.
        parent_id: The id of the parent.
        task_id: The task itself, where it is known.

    Raises:
        TypeError: Something has the wrong type.
        ValueError: An id is empty, too long or no Unicode text, there are too many owners, or a task is its own parent.
    """
    if owner is None and parent_id is None:
        return NO_OPTIONS
    owners = None
    if owner is not None:
        owners = frozenset(_checked("owner", each) for each in ((owner,) if isinstance(owner, str) else owner))
        if len(owners) > MAX_OWNERS:
            raise ValueError(f"a task has {MAX_OWNERS} owners at most, not {len(owners)}; use the id of a group")
    parent = None
    if parent_id is not None:
        if isinstance(parent_id, bool) or not isinstance(parent_id, str | int):
            raise TypeError(f"parent_id is a str or an int, not {type(parent_id).__name__}")
        parent = _checked("parent_id", str(parent_id))
        if parent == task_id:
            raise ValueError("a task cannot be its own parent")
    return CreationOptions(owners, parent)


def _checked(what: str, name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{what} must be text, not {type(name).__name__}")
    if not 0 < len(name) <= MAX_NAME_LENGTH:
        raise ValueError(f"{what} has 1 to {MAX_NAME_LENGTH} characters, not {len(name)}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} must be Unicode text without lone surrogates, not {name!r:.80}") from None
    return name


def wire_args(options: CreationOptions) -> tuple[str, str]:
    """Return owner and parent as the scripts take them. Equal owners give equal text."""
    owner = "" if options.owner is None else _json(options.owner)
    if options.writers is not None:
        owner = f"={_json(options.writers)}\n{owner}"
    return owner, options.parent_id or ""


def _json(ids: frozenset[str]) -> str:
    return json.dumps(sorted(ids), ensure_ascii=False, separators=(",", ":"))


def owner_of(text: str | bytes | None) -> frozenset[str]:
    """Return the owner of a task as Redis has it; empty for None, which is a task without an owner.

    Raises:
        ValueError: It is not of that form.
    """
    if text is None:
        return frozenset()
    owner = json.loads(text)
    if not isinstance(owner, list) or not all(isinstance(each, str) for each in owner):
        raise ValueError(f"not an owner: {text!r:.80}")
    return frozenset(owner)
