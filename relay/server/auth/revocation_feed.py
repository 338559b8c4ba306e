"""Keeps this relay's revocations like those in Redis: by messages, and by reading all of them after each reconnect."""

from collections.abc import Callable
from typing import NoReturn

import structlog
import trio
from relay_wire import revocations as wire

from relay.broker.contract import RunCalls
from relay.core.errors import BrokerError
from relay.core.revocations import Revocation, Revocations

_log = structlog.get_logger("relay.revocations")

#: Seconds between two reads: usually, and while the subscription is down or coming up, when a message may be missed.
_INTERVAL = 15.0
_INTERVAL_DOWN = 0.4


class RevocationFeed:
    """Reads revocations from Redis.

    Args:
        revocations: Where they are noted.
        run_calls: Runs scripts.
        is_subscribed: Says whether messages arrive.

    Attributes:
        loaded: Set when they were read for the first time. Before that nobody can say which grants hold.
    """

    def __init__(self, revocations: Revocations, run_calls: RunCalls, is_subscribed: Callable[[], bool]) -> None:
        self._revocations = revocations
        self._run_calls = run_calls
        self._is_subscribed = is_subscribed
        self._due = trio.Event()
        self.loaded = trio.Event()

    def on_message(self, _channel: str, message: bytes) -> None:
        """Take a message on `relay_wire.keys.REVOKED`."""
        revocation = wire.read_message(message)
        if revocation is None:
            _log.warning("message skipped: not a revocation", size=len(message))
        else:
            self._revocations.add(Revocation(*revocation))

    def on_reconnecting(self) -> None:
        """Note that messages may have been missed."""
        self._due.set()

    async def run(self) -> NoReturn:
        """Read the revocations again and again, until cancelled."""
        while True:
            self._due = trio.Event()
            was_subscribed = self._is_subscribed()
            is_read = await self._read()
            if is_read and was_subscribed:
                with trio.move_on_after(_INTERVAL):
                    await self._due.wait()
            else:
                await trio.sleep(_INTERVAL_DOWN)

    async def _read(self) -> bool:
        try:
            (answer,) = await self._run_calls([wire.read_call()])
        except BrokerError:
            return False
        if isinstance(answer, BrokerError):
            _log.error("revocations cannot be read", error=str(answer))
            return False
        # What has ended is left out by Redis' clock, so nothing has to be forgotten by ours.
        self._revocations.replace_all(Revocation(*each) for each in wire.read_answer(answer))
        self.loaded.set()
        return True
