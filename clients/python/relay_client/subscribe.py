"""Follow tasks and general updates from Trio, over a relay's ``/ws/tasks``.

    async with subscribe("ws://127.0.0.1:8000/ws/tasks", tasks=["demo"]) as updates:
        async for update in updates:
            print(update.task_id, update.state)

A connection that breaks, and a relay that restarts, are mended: every update comes once and in order, or one comes that says
that some are missing (`Update.is_reset`). Needs the extra ``websocket``.
"""

import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self

try:
    import trio
    import trio_websocket  # noqa: F401 - only to say what to do where it is missing
except ImportError as error:
    raise ImportError("subscribing needs more packages: pip install 'trio-relay-client[websocket]'") from error

from relay_client.subscribing.connection import Keeper
from relay_client.subscribing.limits import ConnectionChange, Limits
from relay_client.subscribing.line import Target
from relay_client.subscribing.subscriptions import Subscriptions
from relay_client.subscribing.updates import (
    Position,
    RelayRefused,
    RelayUnreachable,
    SubscriptionError,
    SubscriptionRefused,
    Update,
)

__all__ = [
    "ConnectionChange",
    "Limits",
    "Position",
    "RelayRefused",
    "RelayUnreachable",
    "SubscriptionError",
    "SubscriptionRefused",
    "Update",
    "Updates",
    "subscribe",
]

_log = logging.getLogger("relay_client")


def _log_change(change: ConnectionChange) -> None:
    _log.log(logging.INFO if change.is_up else logging.WARNING, "%s", change)


@asynccontextmanager
async def subscribe(
    url: str,
    tasks: Iterable[str] = (),
    *,
    general: bool = True,
    positions: Mapping[str, tuple[str, int]] | None = None,
    states: Mapping[str, Mapping[str, Any]] | None = None,
    headers: Mapping[str, str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    limits: Limits | None = None,
    on_connection: Callable[[ConnectionChange], None] = _log_change,
) -> AsyncIterator["Updates"]:
    """Follow a relay for the time of the block.

    url:           of the relay's ``/ws/tasks``, ws:// or wss://
    tasks:         ids; more can be added and removed while it is open
    general:       follow the general updates as well
    positions:     by channel (``general``, ``task:<id>``), where to go on, as `Updates.positions` had it. A task without one
                   begins with its state, and general updates with the next
    states:        the states there, as `Updates.states` had them; without them `Update.state` has only what came since
    headers:       for the handshake, for instance what a proxy wants to see
    on_connection: called when the connection comes or goes; by default that is logged

    Enters at once: the connection is made in the background, in this block's own nursery. Raises ValueError for what can never
    work. When the block ends the connection is closed, politely within a second; when it is cancelled, at once. What the block
    raises comes out as it is, not in a group.
    """
    limits = limits or Limits()
    target = Target.of(url, headers, ssl_context)
    subscriptions = Subscriptions(
        tasks,
        general=general,
        positions=positions,
        states=states,
        max_waiting=limits.max_waiting,
        max_waiting_size=limits.max_waiting_size,
    )
    keeper = Keeper(target, subscriptions, limits, on_connection)
    raised: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        try:
            yield Updates(subscriptions, keeper)
            keeper.end(trio.ClosedResourceError("this subscription is closed"))
            await keeper.say_goodbye()
        except Exception as error:  # noqa: BLE001 - raised again below, outside of the nursery, which would wrap it
            raised = error
        finally:
            keeper.end(trio.ClosedResourceError("this subscription is closed"))
            nursery.cancel_scope.cancel()
    if raised is not None:
        raise raised


class Updates:
    """An open subscription: iterate over it. `subscribe` makes it; the methods may be called from any task of the run."""

    def __init__(self, subscriptions: Subscriptions, keeper: Keeper) -> None:
        self._subscriptions = subscriptions
        self._keeper = keeper

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Update:
        """The next update; waits for one. Raises SubscriptionError when there will be no more, ClosedResourceError outside
        of the block. Cancelling loses nothing. Of several consumers each gets a part."""
        await trio.lowlevel.checkpoint()
        while True:
            update = self._subscriptions.pop()
            if not self._subscriptions.is_full:
                self._keeper.room.unpark_all()
            if update is not None:
                return update
            if self._keeper.ended is not None:
                raise self._keeper.ended
            await self._keeper.arrived.park()

    async def subscribe(self, task_id: str) -> None:
        """Follow one more task, beginning with its state. Does not wait for the relay's answer: a refusal ends the iteration.
        Raises ValueError for what cannot be a task id."""
        self._subscriptions.add(task_id)
        self._keeper.asked.unpark_all()
        await trio.lowlevel.checkpoint()

    async def unsubscribe(self, task_id: str) -> None:
        """Follow a task no longer: none of its updates comes any more, not even one that waits already."""
        self._subscriptions.remove(task_id)
        self._keeper.asked.unpark_all()
        self._keeper.answered.unpark_all()
        await trio.lowlevel.checkpoint()

    async def established(self) -> None:
        """Wait until the relay follows everything that was asked for: what is published from then on comes.

        Raises what iterating would. Waits as long as there is no relay: put a deadline around it.
        """
        await trio.lowlevel.checkpoint()
        while not self._subscriptions.is_settled:
            if self._keeper.ended is not None:
                raise self._keeper.ended
            await self._keeper.answered.park()

    @property
    def tasks(self) -> list[str]:
        """The ids of the tasks that are followed."""
        return self._subscriptions.tasks

    @property
    def positions(self) -> dict[str, Position]:
        """By channel, the position of the last update that was taken: what to give to `subscribe` to go on from here."""
        return self._subscriptions.positions

    @property
    def states(self) -> dict[str, Mapping[str, Any]]:
        """By channel, the tasks' states at these positions."""
        return self._subscriptions.states

    @property
    def waiting(self) -> int:
        """Updates that were received and not yet taken."""
        return self._subscriptions.waiting
