"""A server under test as a row of data: what it needs, how it is started, how clients subscribe, how updates are published."""

import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Template
from typing import Literal

from benchmarks.machine import find_program, first_line, package_version
from benchmarks.protocol import TASKS, Endpoint, Publishing

DIRECTORY = Path(__file__).parent
_NODE_MODULES = DIRECTORY / "node" / "node_modules"


@dataclass(frozen=True)
class Peer:
    """A server under test. In ``command``, ``config`` and ``environ`` these are replaced: $python, $directory (its own),
    $peers (ours), $port, $publish_port, $redis_url, $config (the written file), $key and $chain (a TLS certificate).

    Args:
        name: In tables and on the command line.
        title: For people.
        command: How it is started.
        language: What it is written in.
        packages: Python packages that it needs.
        npm: Node packages that it needs.
        programs: Commands that print the versions of programs that it needs.
        files: Other files that it needs.
        install: What to do when something is missing.
        config: A file in `peers/config` to fill in.
        environ: Variables of its environment.
        redis: Whether it is fed by a Redis; otherwise it is published to directly.
        has_publish_port: Whether it takes updates on a port of its own.
        subscribes_at_start: Whether it is ready only when it listens to Redis.
        ready_path: Where it answers 200 when it is ready; otherwise it is ready when it accepts connections.
        endpoint: Of clients that follow one task.
        everyone: Of clients that receive what is for everyone; by default the task ``everyone``.
        publishing: How to publish to it.
        recovers: Whether its clients send their positions, and get what they missed.
        batches_writes: Whether it writes several updates at once; other servers write one frame at a time.
        processes: How many of it run behind one Redis, with their share of the clients each.
        library: The client library that its makers publish: a file of ``peers/node/sdk``. Its packages are among ``npm``.
        spare_processes: How many of them, the last, are for the publisher and have no clients.
        base: The server that this is under another interpreter.
        has_all_cores: Whether it may use all cores, those of the load too; otherwise it has one of its own.
    """

    name: str
    title: str
    command: str
    language: Literal["python", "node", "c", "go"] = "python"
    packages: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    install: str = "pip install 'trio-relay[bench,peers]'"
    config: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)
    redis: bool = True
    has_publish_port: bool = False
    subscribes_at_start: bool = False
    ready_path: str = ""
    endpoint: Endpoint = TASKS
    everyone: Endpoint | None = None
    publishing: Publishing = field(default_factory=Publishing)
    recovers: bool = False
    batches_writes: bool = False
    processes: int = 1
    library: str = ""
    spare_processes: int = 0
    base: str = ""
    has_all_cores: bool = False

    @property
    def is_relay(self) -> bool:
        """Whether it is Relay in one of its variants."""
        return self.name.startswith("relay")

    def missing(self) -> str | None:
        """Say why it cannot run here, and what to do; None when it can."""
        absent = [
            *(name for name in self.packages if package_version(name) is None),
            *(name for name in self.npm if not (_NODE_MODULES / name).is_dir()),
            *(name for name in map(_program, self.programs) if find_program(name) is None),
            *(name for name in self.files if not Path(name).exists()),
        ]
        return f"not installed: {', '.join(absent)} ({self.install})" if absent else None

    def versions(self) -> Iterator[tuple[str, str]]:
        """Yield the versions of what it needs, as far as it is installed."""
        for name in self.packages:
            if version := package_version(name):
                yield name, version
        for name in self.npm:
            if version := first_line("node", "-p", f"require({str(_NODE_MODULES / name / 'package.json')!r}).version"):
                yield name, version
        for command in self.programs:
            if version := first_line(*shlex.split(command)):
                yield _program(command), version

    def prepare(self, directory: Path, **values: str | int) -> tuple[list[str], dict[str, str]]:
        """Write its configuration; returns its command and its environment."""
        places = {"python": sys.executable, "directory": directory, "peers": DIRECTORY, **values}
        if self.config:
            config = directory / f"{values['port']}-{self.config}"  # each process has its own
            places["config"] = config
            content = Template((DIRECTORY / "config" / self.config).read_text()).substitute(places)
            config.write_text(content)
        program, *arguments = [Template(part).substitute(places) for part in shlex.split(self.command)]
        environ = {name: Template(value).substitute(places) for name, value in self.environ.items()}
        return [find_program(program) or program, *arguments], environ


def under_each(peer: Peer, pythons: Mapping[str, str]) -> Iterator[Peer]:
    """Yield a server under the interpreter of the benchmarks, and under others, each with its name.

    Args:
        peer: The server. What is not started by an interpreter has no others.
        pythons: The command of each other interpreter.
    """
    yield peer
    for name, command in pythons.items() if "$python" in peer.command else ():
        started = peer.command.replace("$python", command.replace("$", "$$"))
        title = f"{peer.title}, Python {name}"
        yield replace(peer, name=f"{peer.name}-{name}", title=title, command=started, base=peer.name)


def _program(command: str) -> str:
    return command.partition(" ")[0]
