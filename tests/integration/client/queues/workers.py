"""Real workers of queues, whose Redis is not the relays'."""

import os
import subprocess
import sys
from pathlib import Path

from relay.processes import start_child
from tests.harness import ROOT, RedisServer, Server

JOBS = "tests.integration.client.queues.jobs"


class Worker(Server):
    """A worker process, with the environment that jobs need."""

    name = "worker"

    def __init__(self, directory: Path, broker: RedisServer, relays_redis: RedisServer, *command: str) -> None:
        super().__init__(directory)
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REDIS_"))}
        environ |= {"BROKER_URL": broker.url, "REDIS_URL": relays_redis.url}
        with self.log.open("ab") as log:
            self._child = start_child(
                [sys.executable, "-m", *command], cwd=ROOT, env=environ, stdout=log, stderr=subprocess.STDOUT
            )


def celery_worker(directory: Path, broker: RedisServer, relays_redis: RedisServer) -> Worker:
    """A Celery worker with two processes."""
    options = ("--concurrency", "2", "--loglevel", "INFO", "--without-gossip", "--without-mingle")
    return Worker(directory, broker, relays_redis, "celery", "-A", JOBS, "worker", *options)


def rq_worker(directory: Path, broker: RedisServer, relays_redis: RedisServer) -> Worker:
    """An RQ worker, which forks for each job."""
    return Worker(directory, broker, relays_redis, "rq.cli", "worker", "--url", broker.url)
