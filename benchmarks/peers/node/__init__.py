"""Peers on Node: the `ws` package, and what all of them need."""

from pathlib import Path

from benchmarks.peers.base import Peer, run_with_redis
from benchmarks.servers import Running, accepts

_DIRECTORY = Path(__file__).parent


def missing_modules(*names: str) -> str | None:
    """Which of these npm packages are not installed; None when all are."""
    missing = [name for name in names if not (_DIRECTORY / "node_modules" / name).is_dir()]
    return f"not installed: {', '.join(missing)} (npm ci --prefix benchmarks/peers/node)" if missing else None


def command(program: str, port: int, redis_url: str) -> list[str]:
    """The command for one of our programs."""
    return ["node", str(_DIRECTORY / program), str(port), redis_url]


class NodeWs(Peer):
    """The `ws` package: one send for each client and message, as its handbook has it."""

    name = "ws"
    title = "Node ws"
    language = "node"
    binaries = ("node",)

    def missing(self) -> str | None:
        return super().missing() or missing_modules("ws", "ioredis")

    def start(self, directory: Path) -> Running:
        return run_with_redis(
            self,
            directory,
            lambda port, valkey: command("ws.js", port, valkey.url),
            ready=lambda port, valkey: accepts(port) and valkey.has_listener(),
        )
