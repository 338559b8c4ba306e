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
