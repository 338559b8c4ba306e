"""The suite's side of a process that obeys commands: lines of JSON over its standard input and output."""

import json
import select
import subprocess
import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from benchmarks.machine import pinned
from relay.processes import start_child


class RemoteFailed(Exception):
    """The process ended, did not answer in time, or could not do what it was told."""


class Remote:
    """A child process that runs one of our modules; a context manager that ends it."""

    def __init__(self, module: str, core: int) -> None:
        self._module = module
        self._answers = b""
        with pinned(core):
            self._child = start_child([sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None
            with suppress(OSError):  # what was not yet written has nobody left to read it
                pipe.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._child.pid

    def tell(self, do: str, **arguments: Any) -> None:
        """Give a command; its answer is to be fetched with `answer`."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise RemoteFailed(f"{self._module} has ended") from None

    def answer(self, timeout: float) -> dict[str, Any]:
        """Wait for the answer to the oldest command that has none. Raises RemoteFailed after `timeout` seconds."""
        assert self._child.stdout is not None
        deadline = time.monotonic() + timeout
        fd = self._child.stdout.fileno()
        while b"\n" not in self._answers:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                raise RemoteFailed(f"{self._module} did not answer within {timeout:.0f} s")
            data = self._child.stdout.read1(1 << 16)  # type: ignore[attr-defined]  # it is buffered
            if not data:
                raise RemoteFailed(f"{self._module} has ended")
            self._answers += data
        line, _, self._answers = self._answers.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RemoteFailed(f"{self._module}: {answer['error']}")
        return answer

    def ask(self, do: str, *, within: float = 30.0, **arguments: Any) -> dict[str, Any]:
        """Give a command and wait for its answer."""
        self.tell(do, **arguments)
        return self.answer(within)
