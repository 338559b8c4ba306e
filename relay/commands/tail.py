"""`relay tail`: find the relay, and follow it with `relay_client.tail`."""

import os
from collections.abc import Sequence

from relay_client.tail.command import run_tail
from relay_client.tail.errors import ExitStatus

from relay.config import load

#: The address on which to reach a relay that listens on all addresses.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def _local_url() -> str:
    """Return the URL of a relay that runs with the settings of this environment."""
    settings, _ = load()
    host = _LOOPBACK.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def run(
    url: str | None, task_ids: Sequence[str], *, general: bool, all_tasks: bool, go_on: bool, as_json: bool
) -> ExitStatus:
    """Follow tasks at `url`, at ``RELAY_URL``, or where the settings say, and return the exit status."""
    if url is not None:
        source = "--url"
    elif environ_url := os.environ.get("RELAY_URL"):
        url, source = environ_url, "RELAY_URL"
    else:
        url, source = _local_url(), "RELAY_HOST or RELAY_PORT"
    return run_tail(
        url,
        task_ids,
        general=general,
        all_tasks=all_tasks,
        go_on=go_on,
        as_json=as_json,
        url_source=source,
    )
