"""Relay itself, as its users run it: the stock Hypercorn command of the README, default settings."""

import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks.certificates import certificate
from benchmarks.doors import GENERAL, TASKS, Door
from benchmarks.feeds import Durable, Feed, Plain
from benchmarks.machine import SERVER_CORE
from benchmarks.peers.base import Peer, python
from benchmarks.servers import Running, ServerProcess, Valkey
from relay.broker.embedded import free_port


class Relay(Peer):
    """One form of it.

    feed:     how updates are published: plain `PUBLISH`, as peers get it, or Relay's durable script
    door:     of the clients that follow a task
    settings: variables of the environment
    """

    def __init__(
        self, name: str = "relay", title: str = "Relay", *, feed: type[Feed] = Plain, door: Door = TASKS,
        tls: bool = False, settings: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.title = title
        self._feed = feed
        self._door = door
        self._tls = tls
        self._settings = dict(settings or {})

    def start(self, directory: Path) -> Running:
        with ExitStack() as stack:
            valkey = stack.enter_context(Valkey(directory / "valkey"))
            port, server = self.start_one(directory, valkey, stack)
            return self.running(port, server, valkey, stack.pop_all())

    def start_one(
        self, directory: Path, valkey: Valkey, stack: ExitStack, *, name: str | None = None, core: int = SERVER_CORE
    ) -> tuple[int, ServerProcess]:
        """One relay process behind a Redis; its port and itself."""
        port = free_port()
        command = python("hypercorn", "-k", "trio", "-b", f"127.0.0.1:{port}", "--backlog", 4096)
        if self._tls:
            key, chain = certificate(directory)
            command += ["--keyfile", str(key), "--certfile", str(chain)]
        environ = {"REDIS_URL": valkey.url, **self._settings}
        server = stack.enter_context(
            ServerProcess(name or self.name, directory, [*command, "relay.asgi:app"], environ=environ, core=core)
        )
        server.wait_until(lambda: self._is_ready(port, server))
        return port, server

    def running(self, port: int, server: ServerProcess, valkey: Valkey, stack: ExitStack) -> Running:
        """What the suite must know of a relay that is up."""
        task, everyone = (replace(door, tls=self._tls) for door in (self._door, GENERAL))
        return Running(
            self.name, port, task, everyone, self._feed, valkey.port, [server], brokers=[valkey.pid], stack=stack
        )

    def _is_ready(self, port: int, server: ServerProcess) -> bool:
        if self._tls:
            return "redis subscription up" in server.log.read_text(errors="replace")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False


#: What the tables compare with peers: fed as they are, and fed by its own durable script.
RELAY = Relay()
RELAY_DURABLE = Relay("relay-durable", "Relay, durable publish", feed=Durable)
