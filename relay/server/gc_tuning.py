"""Memory tuning of the process: the cyclic garbage collector and free heap pages, kept off the clients.

Ten thousand clients are a million objects, all of them alive, and one full collection takes a second in which nobody is served.
Reference counts free them, since a session leaves no cycles behind. So objects that were made for clients are frozen every few
hundred clients, after a collection among just these. A full collection, which finds cycles that errors left, runs only after
very many clients have ended: a client that connects and hangs up again and again must not cause it often.
"""

import ctypes
import gc

#: Objects after which the young ones are collected. Requests leave some hundred each, and 50,000 would take 80 milliseconds.
_YOUNG = 5000

#: Clients whose objects are frozen together.
_FREEZE_EVERY = 256

#: Clients that must have ended before a full collection: this many, and this many times the number connected.
_COLLECT_AFTER = 200_000
_COLLECT_RATIO = 50

#: Calls of `tick` at which free memory is returned after a client ended for which much was kept. It may be referenced a little
#: longer by other tasks, so one call is not enough.
_TRIMS = 3


class MemoryTuner:
    """Counts clients, and freezes, collects or trims when it is time. One for a process; inert before `start`."""

    def __init__(self) -> None:
        self._is_on = False
        self._fresh = 0
        self._alive = 0
        self._ended = 0
        self._pending_trims = 0

    def start(self) -> None:
        """Freeze all objects that exist now, and raise the collector's thresholds for the whole process."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(_YOUNG, 20, 50)
        self._is_on = True

    def on_client_started(self) -> None:
        """Count a client that connected."""
        self._alive += 1
        self._fresh += 1
        if self._fresh >= _FREEZE_EVERY and self._is_on:
            self._fresh = 0
            gc.collect()  # of what is not frozen yet: a few milliseconds
            gc.freeze()

    def on_client_ended(self, *, was_large: bool) -> None:
        """Count a client that disconnected.

        Args:
            was_large: Much was kept for the client, such as a queue or a message that was too long.
        """
        self._alive -= 1
        self._ended += 1
        if was_large:
            self._pending_trims = _TRIMS
        if self._ended >= max(_COLLECT_AFTER, _COLLECT_RATIO * self._alive) and self._is_on:
            self._ended = 0
            gc.unfreeze()
            gc.collect()
            gc.freeze()

    def tick(self) -> None:
        """Return free heap pages to the system if a large client ended lately. Call it about once a second."""
        if self._pending_trims:
            self._pending_trims -= 1
            if _malloc_trim is not None:
                _malloc_trim(0)  # glibc would keep most of what was freed for later


_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
