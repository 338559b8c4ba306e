"""How a worker runs."""

import os
import socket
from dataclasses import dataclass

from relay_client import environment


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Checked when made. Raises ValueError that names what is wrong.

    url:         of Redis; by default ``REDIS_URL``, or ``REDIS_HOST``, ``_PORT``, ...
    concurrency: tasks at once
    name:        for logs and Redis; by default host and process
    lease:       seconds without a sign of life after which a worker's tasks are another's
    grace:       seconds for running tasks when the worker is to end; then they are handed over
    timeout:     seconds for one try of a call to Redis
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
        """Where Redis is. Raises ValueError that names the variable."""
        return self.url or environment.redis_url()

    @property
    def consumer(self) -> str:
        """The worker's name."""
        return self.name or f"{socket.gethostname()}-{os.getpid()}"

    @property
    def beat(self) -> float:
        """Seconds between two signs of life, and two looks for what others have left."""
        return min(1.0, self.lease / 4)
