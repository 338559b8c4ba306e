"""Find Redis: the one that a relay with the same environment would use, or the embedded one of a relay on this machine."""

import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from relay_wire.redis_urls import parse, sync_client

from relay import logs
from relay.config import RedisSettings, load
from relay.core.errors import ConfigError

#: Deadline of every Redis call, in seconds.
TIMEOUT = 3.0


@dataclass(frozen=True, slots=True)
class Place:
    """A Redis server, Sentinels or a cluster.

    Attributes:
        url: The URL, with the password.
        origin: How it was found, as text for the operator.
        log: Its log file, if known.
    """

    url: str
    origin: str
    log: Path | None = None

    def __str__(self) -> str:
        return f"{logs.without_password(self.url)}  ({self.origin})"


def read_place() -> tuple[RedisSettings, Place]:
    """Return the settings of this environment, and the Redis that `find_redis` finds by them.

    Raises:
        SystemExit: The settings cannot be right. The reason was printed, and the status is 2.
    """
    try:
        _, settings = load()
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    return settings, find_redis(settings)


def find_redis(settings: RedisSettings) -> Place:
    """Return the configured Redis, else the newest embedded one on this machine that answers, else the default address."""
    configured = settings.configured_url()
    if configured is not None:
        return Place(configured, "configured")
    for log in sorted(Path(tempfile.gettempdir()).glob("relay-redis-*/server.log"), key=_age):
        port = _port(log)
        if port is not None and _answers(port):
            return Place(f"redis://127.0.0.1:{port}/0", "embedded in a relay on this machine", log)
    return Place(f"redis://127.0.0.1:{settings.port}/{settings.db}", "nothing is configured")


def _age(log: Path) -> float:
    try:
        return -log.stat().st_mtime
    except OSError:  # its relay has just exited
        return 0.0


def _port(log: Path) -> int | None:
    try:
        with log.open(errors="replace") as file:
            found = re.search(r"mode=standalone, port=(\d+)", file.read(100_000))
    except OSError:  # deleted, or owned by another user
        return None
    return int(found[1]) if found else None


def _answers(port: int) -> bool:
    with redis.Redis(port=port, socket_timeout=TIMEOUT, retry=Retry(NoBackoff(), 0)) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


def connect(place: Place, settings: RedisSettings) -> "redis.Redis | redis.RedisCluster":
    """Return a client for use in one thread.

    Raises:
        redis.RedisError: it is a cluster, and no node answers.
    """
    options = {} if settings.ssl_ca_certs is None else {"ssl_ca_certs": str(settings.ssl_ca_certs)}
    return sync_client(
        parse(place.url),
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
        encoding_errors="replace",  # keys may have any bytes, and all of them are shown
        **options,
    )
