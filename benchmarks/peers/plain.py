"""Peers that are a library and a page of our own code: each listens to one Redis pattern, has a set of clients for each task,
speaks Relay's `subscribe`, and sends every message as it comes. None bounds what waits for a client.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.base import Peer, python, run_with_redis
from benchmarks.servers import Running, Valkey, accepts


class PlainPeer(Peer):
    """A program of ours in benchmarks/peers/programs."""

    def __init__(self, name: str, title: str, program: str, packages: Sequence[str]) -> None:
        self.name = name
        self.title = title
        self._program = f"benchmarks.peers.programs.{program}"
        self.packages = packages

    def start(self, directory: Path) -> Running:
        def command(port: int, valkey: Valkey) -> list[str]:
            return python(self._program, port, valkey.url)

        return run_with_redis(self, directory, command, ready=_is_ready)


class StarletteOnUvicorn(Peer):
    """Starlette's WebSockets under uvicorn with all its accelerators."""

    name = "starlette"
    title = "uvicorn with Starlette"
    packages = ("starlette", "uvicorn", "uvloop", "httptools", "websockets")

    def start(self, directory: Path) -> Running:
        return run_with_redis(
            self,
            directory,
            lambda port, _: uvicorn("benchmarks.peers.programs.starlette_app:app", port),
            ready=_is_ready,
            environ=lambda _, valkey: {"BENCH_REDIS_URL": valkey.url},
        )


def uvicorn(app: str, port: int) -> list[str]:
    """The command for an app, on uvloop, without logs and without compression, which no client here offers."""
    options = ("--loop", "uvloop", "--http", "httptools", "--ws", "websockets-sansio", "--backlog", "4096")
    return python("uvicorn", app, "--port", port, "--log-level", "warning", *options)


def _is_ready(port: int, valkey: Valkey) -> bool:
    return valkey.has_listener() and accepts(port)


PLAIN_PEERS: tuple[Peer, ...] = (
    PlainPeer("picows", "picows on uvloop", "picows_program", ("picows", "uvloop")),
    PlainPeer("websockets", "websockets broadcast() on uvloop", "websockets_program", ("websockets", "uvloop")),
    PlainPeer("websockets-trio", "websockets.trio", "websockets_trio_program", ("websockets.trio", "trio_asyncio")),
    PlainPeer("trio-websocket", "trio-websocket", "trio_websocket_program", ("trio_websocket", "trio_asyncio")),
    StarletteOnUvicorn(),
)
