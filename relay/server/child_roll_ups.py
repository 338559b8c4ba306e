"""The roll-up of children: one relay of many adds children to their parents, several times per second."""

import secrets

import structlog

from relay.broker.child_roll_ups import ChildRollUps
from relay.core.errors import BrokerError
from relay.ticks import sleep_until_tick

_log = structlog.get_logger("relay.child_roll_ups")

#: Seconds between two rounds, while there is something to do and while there is nothing.
_BUSY, _IDLE = 0.25, 1.0

#: Seconds that the lock lasts. Another relay takes its place after that.
_LOCK_SECONDS = 5.0


async def roll_up_children(roll_ups: ChildRollUps) -> None:
    """Roll up children until cancelled.

    Every relay runs this, and the one that holds the lock does the work. Two at once, when one was frozen while it held the
    lock, do no harm: what is older than what a parent knows changes nothing.
    """
    token = secrets.token_hex(8)
    pause = _IDLE
    while True:
        await sleep_until_tick(pause)
        pause = _IDLE
        try:
            if await roll_ups.may_carry(token, _LOCK_SECONDS) and await roll_ups.carry():
                pause = _BUSY
        except BrokerError as error:
            _log.warning("rolling up children failed", error=str(error))
