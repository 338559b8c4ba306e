"""The cyclic garbage collector, kept off the clients.

Ten thousand clients are a million objects, all of them alive; one look at them takes a second, in which nobody is served. They
are freed by their reference counts, since a session leaves no cycles behind. So what has been made for clients is frozen every
few hundred of them, and is looked at again only when many have gone: for what cycles their errors may have left.
"""

import gc

#: Clients whose objects are frozen together: fewer objects than the young generation takes before it is looked at.
_FREEZE_EVERY = 256

#: Clients that must have ended before everything is looked at, and how many for each that is connected.
_COLLECT_AFTER = 20_000
_COLLECT_RATIO = 2


class Garbage:
    """Counts clients, and freezes or collects when it is time. One for a process; switches nothing before `start`."""

    def __init__(self) -> None:
        self._is_on = False
        self._fresh = 0
        self._alive = 0
        self._ended = 0

    def start(self) -> None:
        """What is there now stays."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        self._is_on = True

    def on_started(self) -> None:
        """A client has come."""
        self._alive += 1
        self._fresh += 1
        if self._fresh >= _FREEZE_EVERY and self._is_on:
            self._fresh = 0
            gc.freeze()

    def on_ended(self) -> None:
        """A client has gone."""
        self._alive -= 1
        self._ended += 1
        if self._ended >= max(_COLLECT_AFTER, _COLLECT_RATIO * self._alive) and self._is_on:
            self._ended = 0
            gc.unfreeze()
            gc.collect()
            gc.freeze()
