"""Litestar's channels plugin with its Redis backend, under uvicorn."""

from pathlib import Path

from benchmarks.peers.base import Peer, run_with_redis
from benchmarks.peers.plain import uvicorn
from benchmarks.servers import Running, accepts


class Litestar(Peer):
    """Its backend subscribes in Redis when the first client of a channel comes."""

    name = "litestar"
    title = "Litestar channels under uvicorn"
    packages = ("litestar", "uvicorn", "uvloop", "httptools", "websockets")

    def start(self, directory: Path) -> Running:
        return run_with_redis(
            self,
            directory,
            lambda port, _: uvicorn("benchmarks.peers.programs.litestar_app:app", port),
            ready=lambda port, _: accepts(port),
            environ=lambda _, valkey: {"BENCH_REDIS_URL": valkey.url},
        )
