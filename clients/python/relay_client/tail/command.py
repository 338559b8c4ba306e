"""`relay tail`: follow a relay from a terminal, over the same WebSocket as browsers.

Two views: a board with progress bars (`relay_client.tail.progress_view`) for a terminal, lines of JSON for everything else.
"""

import os
import sys
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Protocol
from urllib.error import HTTPError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import ProxyHandler, build_opener

import msgspec
import trio
import typer

from relay_client.subscriber import ConnectionChange, SubscriptionError, Update
from relay_client.subscriber.endpoint import Endpoint
from relay_client.subscriber.reconnect import full_jitter
from relay_client.subscriber.subscriptions import Subscriptions
from relay_client.subscriber.trio import Updates, subscribe
from relay_client.tail.errors import TailError

#: Tasks that are followed with `--all`: the most recent. A relay lets a client follow RELAY_MAX_SUBSCRIPTIONS channels, 256.
MAX_TASKS = 200

#: Seconds for one answer of the relay's HTTP API, its longest in bytes, and the delays between tries.
_HTTP_TIMEOUT = 10.0
_MAX_LISTING = 64 * 1024 * 1024
_LISTING_DELAYS = (0.5, 10.0)


class View(Protocol):
    """Where updates are shown. Only `run` waits."""

    def show(self, update: Update) -> None:
        """One update."""

    def forget(self, task_id: str) -> None:
        """A task is not followed any more."""

    def remark(self, text: str) -> None:
        """Something about the connection."""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do what takes time, until cancelled."""


class Lines:
    """One line of JSON for each update, as the relay sent it; remarks go to stderr and begin with "#"."""

    def show(self, update: Update) -> None:
        typer.echo(update.text)

    def forget(self, task_id: str) -> None:  # noqa: ARG002 - the contract's
        return

    def remark(self, text: str) -> None:
        typer.echo(f"# {text}", err=True)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()


class Recent:
    """The most recent tasks, as many as are followed.

    most:   how many
    pinned: tasks that are followed whatever happens, and not counted
    """

    def __init__(self, most: int, pinned: Iterable[str] = ()) -> None:
        self._most = most
        self._pinned = frozenset(pinned)
        self._tasks: OrderedDict[str, None] = OrderedDict()  # the most recent is the last

    def touch(self, task_id: str) -> tuple[bool, str | None]:
        """Something happened to a task: whether it is new, and which one has to go for it."""
        if task_id in self._pinned:
            return False, None
        is_new = task_id not in self._tasks
        self._tasks[task_id] = None
        self._tasks.move_to_end(task_id)
        return is_new, self._tasks.popitem(last=False)[0] if len(self._tasks) > self._most else None

    def add_older(self, task_id: str) -> bool:
        """A task with which less has happened lately than with all others: whether it is new and there is room for it."""
        if task_id in self._pinned or task_id in self._tasks or len(self._tasks) >= self._most:
            return False
        self._tasks[task_id] = None
        self._tasks.move_to_end(task_id, last=False)
        return True


def announced_task(update: Update) -> str | None:
    """The task that a general update announces, if it does."""
    info = update.data.get("task_info") if update.data.get("type") == "task_created" else None
    task_id = info.get("task_id") if isinstance(info, dict) else None
    if isinstance(task_id, bool) or not isinstance(task_id, str | int):
        return None
    return str(task_id) if 1 <= len(str(task_id)) <= 255 else None


class _Task(msgspec.Struct):
    task_id: str


class _Listing(msgspec.Struct):
    tasks: list[_Task]


def tasks_url(url: str) -> str:
    """Where the relay of a ``/ws/tasks`` lists its tasks. Raises TailError when it is no such URL."""
    parts = urlsplit(url)
    path = "/ws/tasks" if parts.path in ("", "/") else parts.path
    if not path.endswith("/ws/tasks"):
        raise TailError(f"--all needs a --url that ends with /ws/tasks, not {url}")
    place = path.removesuffix("/ws/tasks") + "/api/tasks"
    return urlunsplit((parts.scheme.replace("ws", "http", 1), parts.netloc, place, f"limit={MAX_TASKS}", ""))


def _get(url: str) -> bytes:
    """In a thread. Like the WebSocket it goes straight to the relay, through no proxy."""
    with build_opener(ProxyHandler({})).open(url, timeout=_HTTP_TIMEOUT) as response:
        body: bytes = response.read(_MAX_LISTING)
    return body


async def listed_tasks(url: str, view: View) -> list[str]:
    """The tasks that the relay lists, the most recent first; tries until it answers. Cancelled, it leaves its thread to the
    time-out."""
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


class _Follower:
    """Follows all tasks that there are, as far as there is room."""

    def __init__(self, url: str, updates: Updates, recent: Recent, view: View) -> None:
        self._url = url
        self._updates = updates
        self._recent = recent
        self._view = view
        self._wanted = trio.Event()
        self._wanted.set()

    async def run(self) -> None:
        """List the tasks, and again when announcements were missed. First the announcements are followed: a task that is
        created in between is heard of twice rather than never."""
        while True:
            await self._wanted.wait()
            await self._updates.established()
            self._wanted = trio.Event()
            for task_id in await listed_tasks(self._url, self._view):
                if self._recent.add_older(task_id):
                    await self._updates.subscribe(task_id)

    async def look_at(self, update: Update) -> None:
        """Follow what it announces, and let go of the least recent instead."""
        if update.task_id is None and update.is_reset:
            self._wanted.set()
        task_id = update.task_id or announced_task(update)
        if task_id is None:
            return
        is_new, gone = self._recent.touch(task_id)
        if gone is not None:
            await self._updates.unsubscribe(gone)
            self._view.forget(gone)
        if is_new:
            await self._updates.subscribe(task_id)


async def follow(url: str, task_ids: Sequence[str], view: View, *, everything: bool = False) -> None:
    """Show general updates and those of some tasks, for ever.

    everything: follow also the tasks that the relay lists, and those that are announced, the most recent 200

    Raises SubscriptionError, in a group, when the relay does not want us. Cancelling closes the connection.
    """

    def on_connection(change: ConnectionChange) -> None:
        view.remark(str(change))

    list_url = tasks_url(url) if everything else ""
    async with trio.open_nursery() as nursery:
        await nursery.start(view.run)
        async with subscribe(url, task_ids, general=True, on_connection=on_connection) as updates:
            follower = _Follower(list_url, updates, Recent(MAX_TASKS, task_ids), view)
            if everything:
                nursery.start_soon(follower.run)
            async for update in updates:
                if update.is_reset:
                    view.remark(f"some updates were lost: {update.channel}")
                view.show(update)
                if everything:
                    await follower.look_at(update)


def run_tail(url: str, task_ids: Sequence[str], *, everything: bool, as_json: bool) -> None:
    """`follow` until Ctrl-C, or until nobody reads our output any more.

    Raises TailError when the relay refuses the connection, and for an invalid URL or task id.
    """
    try:
        Endpoint.parse(url, None, None)
        Subscriptions(task_ids)
    except ValueError as error:
        raise TailError(str(error)) from None
    view: View = Lines()
    if sys.stdout.isatty() and not as_json:
        from relay_client.tail.progress_view import Board  # rich takes its time, which only those pay who look

        view = Board()

    async def run() -> None:
        await follow(url, task_ids, view, everything=everything)

    refusal: BaseException | None = None
    try:
        trio.run(run)
    except* SubscriptionError as errors:
        refusal = errors
        while isinstance(refusal, BaseExceptionGroup):
            refusal = refusal.exceptions[0]
    except* BrokenPipeError:
        # `relay tail | head`: what is left in the buffer has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if refusal is not None:
        raise TailError(str(refusal))
