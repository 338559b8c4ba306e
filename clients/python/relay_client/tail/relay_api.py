"""Requests of `relay tail` to the relay over HTTP: where that is, which tasks there are, and whether the relay is ready."""

from urllib.error import HTTPError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import ProxyHandler, build_opener

import msgspec
import trio

from relay_client.backoff import full_jitter
from relay_client.subscriber.endpoint import WEBSOCKET_PATH
from relay_client.tail.views import View

#: Seconds for one answer, its longest in bytes, and bounds of the delays between attempts to list the tasks.
_HTTP_TIMEOUT = 10.0
_MAX_RESPONSE = 64 * 1024 * 1024
_LISTING_DELAYS = (0.5, 10.0)

#: Seconds between two looks at whether the relay is ready.
_READINESS_INTERVAL = 2.0


def http_url(url: str, path: str) -> str | None:
    """Return the URL of a path beside a relay's WebSocket, None if the WebSocket is at an unusual place."""
    parts = urlsplit(url)
    websocket_path = WEBSOCKET_PATH if parts.path in ("", "/") else parts.path
    if not websocket_path.endswith(WEBSOCKET_PATH):
        return None
    root = websocket_path.removesuffix(WEBSOCKET_PATH)
    return urlunsplit((parts.scheme.replace("ws", "http", 1), parts.netloc, root + path, "", ""))


class _Task(msgspec.Struct):
    task_id: str


class _Listing(msgspec.Struct):
    tasks: list[_Task]


class _Readiness(msgspec.Struct):
    status: str


def _get(url: str) -> bytes:
    """In a thread. Like the WebSocket it goes straight to the relay, through no proxy."""
    with build_opener(ProxyHandler({})).open(url, timeout=_HTTP_TIMEOUT) as response:
        body: bytes = response.read(_MAX_RESPONSE)
    return body


async def listed_tasks(url: str, view: View) -> list[str]:
    """Return the tasks that the relay lists, the most recent first. Tries until it answers. Cancelled, it leaves its thread to
    the time-out."""
    attempt = 0
    while True:
        try:
            body = await trio.to_thread.run_sync(_get, url, abandon_on_cancel=True)
            return [task.task_id for task in msgspec.json.decode(body, type=_Listing).tasks]
        except HTTPError as error:
            error.close()
            why = f"{url} answered {error.code}"
        except (OSError, msgspec.DecodeError) as error:
            why = f"{url}: {error}"
        delay = full_jitter(attempt, *_LISTING_DELAYS)
        view.remark(f"cannot list the tasks, trying again in {delay:.1f} s: {why}")
        await trio.sleep(delay)
        attempt += 1


def _unready_reason(url: str) -> str | None:
    """In a thread. None if the relay is ready or does not answer: a lost connection is reported elsewhere."""
    try:
        _get(url)
    except HTTPError as error:
        with error:
            if error.code == 503:
                try:
                    return msgspec.json.decode(error.read(4096), type=_Readiness).status
                except (OSError, msgspec.DecodeError):
                    return None
    except OSError:
        return None
    return None


async def watch_readiness(url: str, view: View) -> None:
    """Remark when the relay is not ready, for instance since Redis is away, and when it is again; until cancelled. A relay
    that cannot reach Redis keeps its clients connected: they would see nothing but silence."""
    reason: str | None = None
    while True:
        before, reason = reason, await trio.to_thread.run_sync(_unready_reason, url, abandon_on_cancel=True)
        if reason is not None and reason != before:
            view.remark(f"the relay is not ready: {reason}")
        elif reason is None and before is not None:
            view.remark("the relay is ready again")
        await trio.sleep(_READINESS_INTERVAL)
