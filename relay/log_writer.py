"""Writing log lines without waiting: a reader that stalls, or has gone, costs lines and nothing else."""

import os
import threading
from collections import deque
from contextlib import suppress
from typing import TextIO

#: Characters that may wait to be written: a minute's log of a busy relay.
MAX_WAITING = 1024 * 1024


_LOST = '{"event": "log lines lost: the reader is too slow", "level": "error", "lines": %d}\n'


class LogWriter:
    """A text stream that a thread writes to a file. May be used from every thread.

    When more waits than the limit, new lines are dropped. How many is written as a line of its own as soon as there is room.

    Args:
        file: Where the lines go; writing to it may block.
        max_waiting: Characters that may wait.
    """

    def __init__(self, file: TextIO, max_waiting: int = MAX_WAITING) -> None:
        self._file = file
        self._descriptor: int | None = None
        with suppress(OSError, ValueError):  # it is a file in memory
            self._descriptor = file.fileno()
        self._max_waiting = max_waiting
        self._lines: deque[str] = deque()
        self._waiting = 0
        self._dropped = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def write(self, text: str) -> int:
        """Take a line to be written, without waiting."""
        with self._changed:
            if self._waiting + len(text) > self._max_waiting:
                self._dropped += 1
                return len(text)
            if self._dropped:
                self._put(
                    f'{{"event": "log lines lost: the reader is too slow", "level": "error", "lines": {self._dropped}}}\n'
                )
                self._dropped = 0
            self._put(text)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return len(text)

    def _put(self, text: str) -> None:
        self._lines.append(text)
        self._waiting += len(text)

    def flush(self) -> None:
        """Do nothing: the thread flushes. Loggers call this after each line."""

    def wait_written(self, timeout: float) -> bool:
        """Wait until all lines are written, for `timeout` seconds at most; returns whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: self._waiting == 0, timeout)

    def _write(self, text: str) -> None:
        if self._descriptor is None:
            self._file.write(text)
            self._file.flush()
            return
        # Not by way of the file, whose lock this thread would hold when the interpreter ends and wants to flush it.
        data = text.encode(errors="replace")
        while data:
            data = data[os.write(self._descriptor, data) :]

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._lines))
                lines = list(self._lines)
                self._lines.clear()
            text = "".join(lines)
            with suppress(OSError, ValueError):  # its reader has gone; ValueError: it was closed
                self._write(text)
            with self._changed:
                self._waiting -= len(text)
                self._changed.notify_all()
