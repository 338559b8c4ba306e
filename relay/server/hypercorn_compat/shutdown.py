"""How a Hypercorn worker finds out that its parent wants it to end: it looks at the ticks of all periodic work."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from hypercorn import utils

from relay.ticks import sleep_until_tick


async def _sleep(_seconds: float) -> None:
    await sleep_until_tick()


async def raise_shutdown(shutdown_event: Callable[..., Awaitable[Any]]) -> None:
    """Stand in for `hypercorn.utils.raise_shutdown` in Hypercorn's worker.

    Hypercorn has a worker look ten times a second, and wakes an otherwise idle process for that.
    """
    trigger = shutdown_event
    if isinstance(trigger, partial) and trigger.func is utils.check_multiprocess_shutdown_event:
        trigger = partial(utils.check_multiprocess_shutdown_event, trigger.args[0], _sleep)
    await utils.raise_shutdown(trigger)
