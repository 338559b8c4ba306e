"""The drain: close all clients before the process ends, at a pace that the next relay can take."""

import math

import structlog
import trio

from relay.core.closecodes import Close
from relay.server.session_registry import SessionRegistry

_log = structlog.get_logger("relay.drain")

#: Clients closed in a second at least: a few need not wait for the end of the window.
DRAIN_RATE = 100

#: Seconds between two waves of closed clients.
_WAVE = 0.05


def _max_wave(rate: float) -> int:
    return math.ceil(2 * rate * _WAVE)


async def drain(registry: SessionRegistry, timeout: float, window: float) -> None:
    """Close all clients with 1001, evenly over a window, and wait until their sessions have ended.

    A second call while the first one runs only waits.

    Args:
        registry: The sessions to close.
        timeout: Seconds after which the remaining connections are aborted.
        window: Seconds over which the clients are closed; fewer are closed sooner, see `DRAIN_RATE`.
    """
    if registry.is_draining:
        with trio.move_on_after(timeout):
            await registry.wait_empty()
        return
    registry.start_draining()
    started = trio.current_time()
    remaining = list(registry)
    clients = len(remaining)
    rate = max(DRAIN_RATE, clients / max(window, _WAVE))
    _log.info("draining", clients=clients, seconds=round(clients / rate, 3))
    with trio.move_on_after(timeout) as scope:
        while remaining:
            # By the clock: waves after one that came late close what it has missed, a part in each.
            due = math.ceil((trio.current_time() - started + _WAVE) * rate) - (clients - len(remaining))
            for _ in range(min(due, _max_wave(rate), len(remaining))):
                remaining.pop().close(Close.SHUTDOWN)
            await trio.sleep(_WAVE)
        await registry.wait_empty()
    _log.info("drained", left=len(registry), seconds=round(trio.current_time() - started, 3))
    if scope.cancelled_caught:
        for session in list(registry):
            session.abort()
