"""The drain: close all clients before the process ends, at a pace that the next relay can take."""

import math

import structlog
import trio

from relay.core.closecodes import Close
from relay.server.session_registry import SessionRegistry

_log = structlog.get_logger("relay.drain")

#: Clients closed in a second, so that they do not all reconnect to the next relay at once.
DRAIN_RATE = 2000

#: Seconds between two waves of closed clients.
_WAVE = 0.05


async def drain(registry: SessionRegistry, timeout: float) -> None:
    """Close all clients with 1001 in waves, and wait until their sessions have ended.

    A second call while the first one runs only waits.

    Args:
        registry: The sessions to close.
        timeout: Seconds after which the remaining connections are aborted.
    """
    if registry.is_draining:
        with trio.move_on_after(timeout):
            await registry.wait_empty()
        return
    registry.start_draining()
    started = trio.current_time()
    _log.info("draining", clients=len(registry))
    with trio.move_on_after(timeout) as scope:
        pace = max(DRAIN_RATE, len(registry) / max(timeout / 2, _WAVE)) * _WAVE
        remaining = list(registry)
        while remaining:
            for _ in range(min(math.ceil(pace), len(remaining))):
                remaining.pop().close(Close.SHUTDOWN)
            await trio.sleep(_WAVE)
        await registry.wait_empty()
    _log.info("drained", left=len(registry), seconds=round(trio.current_time() - started, 3))
    if scope.cancelled_caught:
        for session in list(registry):
            session.abort()
