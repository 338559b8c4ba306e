"""A job: the kind of a task, its parameters, and what watchers see of it; as Redis keeps it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from relay_client.encoding import encode
from relay_client.progress.values import utc_now_iso
from relay_wire.creation import NO_OPTIONS, CreationOptions, creation_options
from relay_wire.statuses import PENDING

_KIND = re.compile(r"[A-Za-z0-9_.:-]{1,100}")


class BadJob(ValueError):
    """Redis holds something for a task that is no job."""


def checked_kind(kind: str) -> str:
    """Return the kind. Raises ValueError for what cannot be one: it is part of a key's name."""
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        raise ValueError(f"a kind of task is 1 to 100 letters, digits and any of _ . : -, not {kind!r:.120}")
    return kind


@dataclass(frozen=True, slots=True)
class Job:
    """One task, as its creator handed it in.

    Attributes:
        params: For the handler only.
        info: For everybody: the fields of its announcement, which become its first state.
        options: Who owns the task, and its parent. Kept, so that a worker can announce the task if its creator dies.
    """

    task_id: str
    kind: str
    params: Mapping[str, Any] = field(repr=False)
    info: Mapping[str, Any]
    options: CreationOptions = NO_OPTIONS

    def encoded(self) -> bytes:
        """Return it as JSON. Raises TypeError or ValueError for parameters that JSON has no form for."""
        if not isinstance(self.params, Mapping):
            raise TypeError(f"params is a mapping, not {type(self.params).__name__}")
        job: dict[str, Any] = {"kind": self.kind, "params": dict(self.params), "info": dict(self.info)}
        if self.options.owner is not None:
            job["owner"] = sorted(self.options.owner)
        if self.options.parent_id is not None:
            job["parent_id"] = self.options.parent_id
        return encode(job)


def new_job(
    task_id: str,
    kind: str,
    params: Mapping[str, Any],
    title: str | None,
    fields: Mapping[str, Any],
    options: CreationOptions = NO_OPTIONS,
) -> Job:
    """Return a job that is created now. Raises ValueError for a kind that cannot be one."""
    titled = {} if title is None else {"title": title}
    info = {
        "kind": checked_kind(kind),
        **titled,
        "cancellable": True,
        **fields,
        "status": PENDING,
        "progress": 0,
        "created_at": utc_now_iso(),
    }
    return Job(task_id, kind, params, info, options)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def decoded(task_id: str, text: bytes | str) -> Job:
    """Read a job as Redis holds it. Raises BadJob."""
    try:
        job = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BadJob(f"the task's job is no JSON: {error}") from None
    match job:
        case {"kind": str(kind), "params": dict(params), "info": dict(info)}:
            try:
                options = creation_options(job.get("owner"), job.get("parent_id"), task_id=task_id)
            except (TypeError, ValueError) as error:
                raise BadJob(f"the task's job has no valid owner or parent: {error}") from None
            return Job(task_id, kind, params, info, options)
    raise BadJob("the task's job lacks its kind, params or info")
