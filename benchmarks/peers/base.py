"""What the suite must know of a server that it compares: whether it can run here, and how it is started."""

import importlib.util
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from benchmarks.doors import TASKS, Door
from benchmarks.feeds import Channels, Feed
from benchmarks.servers import Running, ServerProcess, Valkey
from benchmarks.wire import EVERYONE
from relay.broker.embedded import free_port

Language = Literal["python", "node", "c", "go"]


class Peer(ABC):
    """A server under test. ``packages`` are modules, ``binaries`` commands that it needs."""

    name: str
    title: str
    language: Language = "python"
    packages: Sequence[str] = ()
    binaries: Sequence[str] = ()

    def missing(self) -> str | None:
        """Why it cannot run here; None when it can."""
        modules = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if modules:
            return f"not installed: {', '.join(modules)} (pip install 'trio-relay[bench,peers]')"
        commands = [name for name in self.binaries if shutil.which(name) is None]
        return f"not on the PATH: {', '.join(commands)}" if commands else None

    @abstractmethod
    def start(self, directory: Path) -> Running:
        """Run it. Raises ServerFailed when it does not come up."""


def everyone_is_a_task(door: Door) -> Door:
    """The door of clients that follow the channel which stands for everyone."""
    steps = tuple((say and say.replace("{task}", EVERYONE), expect) for say, expect in door.steps)
    return Door(**{**vars(door), "path": door.path.replace("{task}", EVERYONE), "steps": steps})


def run_with_redis(
    peer: Peer, directory: Path, command: Callable[[int, Valkey], Sequence[str]], *,
    ready: Callable[[int, Valkey], bool], door: Door = TASKS, everyone: Door | None = None, feed: type[Feed] = Channels,
    feed_options: dict[str, Any] | None = None, environ: Callable[[int, Valkey], Mapping[str, str]] | None = None,
) -> Running:  # fmt: skip
    """Start a Redis and a server that it feeds."""
    with ExitStack() as stack:
        valkey = stack.enter_context(Valkey(directory / "valkey"))
        port = free_port()
        settings = environ(port, valkey) if environ else {}
        server = stack.enter_context(ServerProcess(peer.name, directory, command(port, valkey), environ=settings))
        server.wait_until(lambda: ready(port, valkey))
        return Running(
            peer.name, port, door, everyone or everyone_is_a_task(door), feed, valkey.port, [server],
            feed_options or {}, [valkey.pid], stack.pop_all(),
        )  # fmt: skip


def python(module: str, *arguments: str | int) -> list[str]:
    """A command that runs one of our modules."""
    return [sys.executable, "-m", module, *map(str, arguments)]
