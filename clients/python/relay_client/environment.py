"""Settings that clients share with the relay, from the environment: the URL of Redis, and what is kept how long.

The names and defaults are those of the server, see its docs/configuration.md.
"""

import os
from collections.abc import Mapping
from urllib.parse import quote

from relay_wire.publications import Retention
from relay_wire.redis_urls import parse

#: Length of the longest update that a relay takes by default, in bytes.
MAX_UPDATE_BYTES = 262_144

#: What a reporter may do with errors of its own.
ON_ERROR = frozenset({"log", "raise"})

#: A relay marks a task as stalled that is in progress and silent for so many seconds.
STALL_SECONDS = 60.0


def redis_url(environ: Mapping[str, str] | None = None) -> str:
    """Return ``REDIS_URL``, or the URL made of ``REDIS_HOST``, ``_PORT``, ``_DB``, ``_USERNAME``, ``_PASSWORD`` and ``_SSL``.

    Raises:
        ValueError: A variable cannot be right. The message names it, and has no password in it.
    """
    environ = os.environ if environ is None else environ
    url = environ.get("REDIS_URL")
    if url:
        try:
            parse(url)
        except ValueError as error:
            raise ValueError(f"REDIS_URL: {error}") from None
        return url
    host = environ.get("REDIS_HOST") or "127.0.0.1"
    port = _integer(environ, "REDIS_PORT", 6379, 1, 65535)
    database = _integer(environ, "REDIS_DB", 0, 0)
    username, password = environ.get("REDIS_USERNAME", ""), environ.get("REDIS_PASSWORD", "")
    login = f"{quote(username, safe='')}:{quote(password, safe='')}@" if username or password else ""
    scheme = "rediss" if environ.get("REDIS_SSL", "").lower() in {"1", "true", "yes", "on"} else "redis"
    url = f"{scheme}://{login}{f'[{host}]' if ':' in host else host}:{port}/{database}"
    authorities = environ.get("REDIS_SSL_CA_CERTS")
    return f"{url}?ssl_ca_certs={quote(authorities, safe='')}" if authorities and scheme == "rediss" else url


def retention(environ: Mapping[str, str] | None = None) -> Retention:
    """Return how much Redis keeps, and for how long: ``RELAY_HISTORY_SIZE``, ``RELAY_HISTORY_TTL``, ``RELAY_HISTORY_META_TTL``,
    ``RELAY_TASK_STATE_TTL``, ``RELAY_TERMINAL_STATE_TTL``, ``RELAY_MAX_STATE_BYTES``.

    Raises:
        ValueError: One of them is wrong; the message names the variable.
    """
    environ = os.environ if environ is None else environ
    default = Retention()
    return Retention(
        _integer(environ, "RELAY_HISTORY_SIZE", default.history_size, 1, 100_000),
        _integer(environ, "RELAY_HISTORY_TTL", default.history_ttl, 1),
        _integer(environ, "RELAY_HISTORY_META_TTL", default.history_meta_ttl, 1),
        _integer(environ, "RELAY_TASK_STATE_TTL", default.task_state_ttl, 1),
        _integer(environ, "RELAY_TERMINAL_STATE_TTL", default.terminal_state_ttl, 1),
        _integer(environ, "RELAY_MAX_STATE_BYTES", default.max_state_bytes, 128),
    )


def max_update_bytes(environ: Mapping[str, str] | None = None) -> int:
    """Return ``RELAY_MAX_UPDATE_BYTES``. Raises ValueError that names the variable."""
    return _integer(os.environ if environ is None else environ, "RELAY_MAX_UPDATE_BYTES", MAX_UPDATE_BYTES, 128)


def api_prefix(environ: Mapping[str, str] | None = None) -> str:
    """Return ``RELAY_API_PREFIX``, the path before ``/tasks`` of a relay's HTTP API."""
    return ((os.environ if environ is None else environ).get("RELAY_API_PREFIX") or "/api").rstrip("/")


def stall_seconds(environ: Mapping[str, str] | None = None) -> float:
    """Return ``RELAY_TASK_STALL_SECONDS``. Raises ValueError that names the variable."""
    value = (os.environ if environ is None else environ).get("RELAY_TASK_STALL_SECONDS")
    if not value:
        return STALL_SECONDS
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"RELAY_TASK_STALL_SECONDS: must be a number greater than 0, not {value!r}")
    return seconds


def on_error(environ: Mapping[str, str] | None = None) -> str:
    """Return ``RELAY_ON_ERROR``: ``log`` (the default) or ``raise``; see `relay_client.TaskReporter`. Raises ValueError."""
    value = (os.environ if environ is None else environ).get("RELAY_ON_ERROR") or "log"
    if value not in ON_ERROR:
        raise ValueError(f"RELAY_ON_ERROR: must be log or raise, not {value!r}")
    return value


def _integer(environ: Mapping[str, str], name: str, default: int, minimum: int = 0, maximum: int | None = None) -> int:
    value = environ.get(name)
    if not value:
        return default
    try:
        number = int(value)
    except ValueError:
        number = minimum - 1
    if number < minimum or (maximum is not None and number > maximum):
        bounds = f"at least {minimum}" if maximum is None else f"between {minimum} and {maximum}"
        raise ValueError(f"{name}: must be a whole number, {bounds}, not {value!r}")
    return number
