"""`relay tail`: find the relay, and follow it with `relay_client.tail`."""

import os
from collections.abc import Sequence

from relay_client.tail.command import run_tail
from relay_client.tail.errors import ExitStatus

from relay.commands.relay_urls import local_url
from relay.config import load


def run(
    url: str | None, task_ids: Sequence[str], *, general: bool, all_tasks: bool, keep_running: bool, as_json: bool
) -> ExitStatus:
    """Follow tasks at `url`, at ``RELAY_URL``, or where the settings say, and return the exit status."""
    if url is not None:
        source = "--url"
    elif environ_url := os.environ.get("RELAY_URL"):
        url, source = environ_url, "RELAY_URL"
    else:
        url, source = local_url(load()[0]), "RELAY_HOST or RELAY_PORT"
    return run_tail(
        url,
        task_ids,
        general=general,
        all_tasks=all_tasks,
        keep_running=keep_running,
        as_json=as_json,
        url_source=source,
    )
