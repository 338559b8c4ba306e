"""The settings of a worker."""

import os
import socket
from dataclasses import dataclass

from relay_client import environment


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How a worker runs. Raises ValueError that names what cannot be right.

    Attributes:
        url: URL of Redis; by default ``REDIS_URL``, or ``REDIS_HOST``, ``REDIS_PORT``, ...
        concurrency: Number of tasks at once, at least 1.
        name: For logs, watchers and Redis, 1 to 100 characters; by default host and process.
        lease: Seconds of silence after which other workers take a worker's tasks over, 1 to 86400.
        grace: Seconds that running tasks have when the worker is to end; then they are handed over.
        timeout: Seconds for one try of a call to Redis, at most 15.
    """

    url: str | None = None
    concurrency: int = 10
    name: str | None = None
    lease: float = 30.0
    grace: float = 20.0
    timeout: float = 2.0

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {self.concurrency!r}")
        if not 1 <= self.lease <= 86400:
            raise ValueError(f"lease must be from 1 to 86400 s, not {self.lease!r}")
        if not 0 <= self.grace < float("inf"):
            raise ValueError(f"grace must be 0 s or more, not {self.grace!r}")
        if not 0 < self.timeout <= 15:
            raise ValueError(f"timeout must be over 0 and at most 15 s, not {self.timeout!r}")
        if self.name is not None and not 0 < len(self.name) <= 100:
            raise ValueError("name must have 1 to 100 characters")

    @property
    def redis_url(self) -> str:
        """URL of Redis. Raises ValueError that names the variable."""
        return self.url or environment.redis_url()

    @property
    def consumer(self) -> str:
        """The worker's name."""
        return self.name or f"{socket.gethostname()}-{os.getpid()}"

    @property
    def heartbeat(self) -> float:
        """Seconds between two renewals of the claims, and between two looks for what other workers have left."""
        return min(1.0, self.lease / 4)
