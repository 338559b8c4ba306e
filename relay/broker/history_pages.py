"""Pages of a task's history, for clients that read it over HTTP: from the oldest update that is kept, or after a position."""

from collections.abc import Sequence
from time import monotonic
from typing import NamedTuple

from relay_wire import keys
from relay_wire.creation import owner_of
from relay_wire.publications import Retention, ScriptCall
from relay_wire.scripts import Script

from relay.broker import script_calls
from relay.broker.contract import RunCalls
from relay.core.channels import task_channel
from relay.core.errors import BrokerError, BrokerRefused
from relay.core.updates import Position, Update

#: Bytes of the updates on one page, with 128 for each besides its data, give or take one update.
MAX_PAGE_BYTES = 256 * 1024

_REMOVE = Script.of("return redis.call('DEL', KEYS[1])")


class HistoryPage(NamedTuple):
    """A part of a task's history.

    Attributes:
        top: The task's last position.
        updates: The updates after the position that was asked for, each with its own; as many as fit. None if the first of them
            is not kept any more, or the position is of another epoch.
        owner: The users and groups that own the task; empty for nobody.
    """

    top: Position
    updates: Sequence[Update] | None
    owner: frozenset[str]


class HistoryPages:
    """Reads histories for clients.

    Args:
        run_calls: Runs scripts for clients.
        retention: The limits of what Redis keeps.
    """

    def __init__(self, run_calls: RunCalls, retention: Retention) -> None:
        self._run_calls = run_calls
        self._retention = retention

    async def read(self, task_id: str, since: Position | None) -> HistoryPage | None:
        """Return a page of a task's history, or None where the task has none.

        Args:
            task_id: The task.
            since: The position after which the page begins; None for the oldest update that is kept.

        Raises:
            BrokerUnavailable: Redis does not answer within the deadline. BrokerBusy: too many clients are served.
            BrokerRefused: The history cannot be read.
        """
        return await self.read_channel(task_channel(task_id), since)

    async def remove(self, channel: str) -> None:
        """Delete a channel's history. Its position and a task's state stay, so nobody resumes from before.

        Raises:
            BrokerError: It was not, or that is unknown.
        """
        (answer,) = await self._run_calls([ScriptCall(_REMOVE, [keys.log(channel)], [])])
        if isinstance(answer, BrokerError):
            raise answer

    async def read_channel(self, channel: str, since: Position | None) -> HistoryPage | None:
        """Return a page of a channel's history; as `read`."""
        call = script_calls.history_call(channel, since, self._retention, MAX_PAGE_BYTES)
        (answer,) = await self._run_calls([call])
        if isinstance(answer, BrokerError):
            raise answer
        try:
            epoch, top, flat, owner = answer
            if epoch is None:
                return None
            position = Position(epoch.decode(), int(top))
            updates = None if flat is None else script_calls.read_entries(channel, position.epoch, flat, monotonic())
            return HistoryPage(position, updates, owner_of(owner))
        except (ValueError, TypeError, AttributeError) as error:
            raise BrokerRefused(f"the history cannot be read: {error}") from error
