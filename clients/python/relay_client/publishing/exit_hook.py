"""A function that is called when the process ends in order, be it a child of ``multiprocessing`` or a main process."""

import atexit
import os
import sys
from collections.abc import Callable

#: A forked child of these packages runs their finalizers at its exit, and none of atexit's.
_FORKING_PACKAGES = ("multiprocessing.util", "billiard.util")


class ExitHook:
    """Calls a function at the end of the process. It is not called when the process is killed, nor by ``os._exit``."""

    def __init__(self, function: Callable[[], None], *, priority: int) -> None:
        """Make a hook.

        Args:
            function: What to call. It must not raise.
            priority: Hooks of a higher priority are called first. Those of the main process are called in the opposite order
                of their making.
        """
        self._function = function
        self._priority = priority
        self._pid = 0
        atexit.register(function)

    def arm(self) -> None:
        """Have the function called also where this process is a child of a forking package: such a child clears what its parent
        has registered. Costs next to nothing when it is armed already."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            for name in _FORKING_PACKAGES:
                if name in sys.modules:
                    sys.modules[name].Finalize(None, self._function, exitpriority=self._priority)
