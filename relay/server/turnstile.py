"""A turnstile: so many tasks go on in each turn of the event loop, so that all who come at once delay nobody else."""

import trio


class Turnstile:
    """Lets tasks through in the order in which they come.

    Args:
        at_once: Tasks that go on in one turn of the event loop.
    """

    def __init__(self, at_once: int = 1) -> None:
        self._passing = trio.Semaphore(at_once)

    async def turn(self) -> None:
        """Wait for a turn, which is the next one of the event loop unless others wait. May be cancelled."""
        async with self._passing:
            await trio.lowlevel.checkpoint()


class TurnLimit:
    """Lets the first tasks of each turn of the event loop go on at once; the others wait as at a `Turnstile`.

    Args:
        at_once: Tasks that go on in one turn of the event loop; and as many of those that have waited.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = self._left = at_once
        self._rest = Turnstile(at_once)

    async def turn(self) -> None:
        """Go on at once, without a checkpoint, or wait for a turn. May be cancelled when it waits."""
        if not self._left:
            await self._rest.turn()
            return
        if self._left == self._at_once:
            trio.lowlevel.current_trio_token().run_sync_soon(self._begin_turn)
        self._left -= 1

    def _begin_turn(self) -> None:
        self._left = self._at_once
