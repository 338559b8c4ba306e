"""`relay tail`: follow a relay from a terminal, over the same WebSocket as browsers.

Two views: progress bars for a terminal, lines of JSON for everything else.
"""

import os
import sys
from collections.abc import Sequence
from functools import partial

import trio

from relay_client.subscriber import RelayUnreachable, SubscriptionError
from relay_client.subscriber.endpoint import Endpoint, websocket_url
from relay_client.subscriber.subscriptions import Subscriptions
from relay_client.tail.errors import ExitStatus, TailError
from relay_client.tail.follow import follow
from relay_client.tail.progress_view import ProgressView
from relay_client.tail.views import JsonLines, View


def _has_terminal() -> bool:
    """Whether stdout can draw progress bars in place."""
    return sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def run_tail(
    url: str,
    task_ids: Sequence[str],
    *,
    general: bool = False,
    all_tasks: bool = False,
    keep_running: bool = False,
    as_json: bool = False,
    url_source: str = "--url",
) -> ExitStatus:
    """Follow until the tasks have ended, until Ctrl-C, or until the reader of our output is gone.

    Args:
        url: Of the relay: ``http(s)://host[/prefix]``, or of its WebSocket: ``ws(s)://host/ws/tasks``.
        task_ids: Tasks to follow. Without any, and without `all_tasks`, the general updates are shown.
        general: Show the general updates too.
        all_tasks: Follow the most recent tasks too.
        keep_running: Do not return when the tasks have ended.
        as_json: Lines of JSON on a terminal too.
        url_source: Where the URL is from, for the message if it is wrong.

    Returns:
        The exit status, by the outcome of the tasks.

    Raises:
        TailError: An argument is wrong, or the relay refuses the connection.
    """
    url = websocket_url(url)
    try:
        Endpoint.parse(url, None, None)
    except ValueError as error:
        raise TailError(f"{url_source}: {error}", ExitStatus.USAGE) from None
    try:
        Subscriptions(task_ids)
    except ValueError as error:
        raise TailError(f"--task: {error}", ExitStatus.USAGE) from None
    view: View = ProgressView() if _has_terminal() and not as_json else JsonLines()
    run = partial(
        follow,
        url,
        task_ids,
        view,
        general=general or not task_ids,
        all_tasks=all_tasks,
        until_ended=not keep_running and not all_tasks,
    )
    try:
        try:
            return trio.run(run)
        except RelayUnreachable as error:
            raise TailError(str(error), ExitStatus.UNREACHABLE) from None
        except SubscriptionError as error:
            raise TailError(str(error), ExitStatus.REFUSED) from None
    except* BrokenPipeError:
        # `relay tail | head`: what is left in the buffer has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitStatus.SUCCESS
