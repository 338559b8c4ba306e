"""Follows tasks for `relay tail`, and shows them in a view."""

from collections.abc import Collection

import trio

from relay_client import environment
from relay_client.subscriber import ConnectionChange, SubscriptionError, Update
from relay_client.subscriber.trio import Updates, subscribe
from relay_client.tail.errors import ExitStatus, TailError
from relay_client.tail.recent_tasks import RecentTasks, announced_task
from relay_client.tail.relay_api import http_url, listed_tasks, watch_readiness
from relay_client.tail.views import View

#: Tasks that are followed with `--all`, the most recent. A relay lets a client follow RELAY_MAX_SUBSCRIPTIONS channels, 256.
MAX_TASKS = 200


class _AllTasks:
    """Follows all tasks that there are, as far as there is room."""

    def __init__(self, list_url: str, updates: Updates, recent: RecentTasks, view: View) -> None:
        self._list_url = list_url
        self._updates = updates
        self._recent = recent
        self._view = view
        self._list_wanted = trio.Event()
        self._list_wanted.set()

    async def run(self) -> None:
        """List the tasks, and again when announcements were missed. Announcements are followed first: a task that is created
        meanwhile is found twice rather than never."""
        while True:
            await self._list_wanted.wait()
            try:
                await self._updates.established()
            except SubscriptionError:
                return  # `follow`, which iterates, gets the same error
            self._list_wanted = trio.Event()
            for task_id in await listed_tasks(self._list_url, self._view):
                if self._recent.add_older(task_id):
                    await self._updates.subscribe(task_id)

    async def on_update(self, update: Update) -> None:
        """Follow the task that an update announces, and the least recent no longer."""
        if update.task_id is None and update.is_reset:
            self._list_wanted.set()
        task_id = update.task_id or announced_task(update)
        if task_id is None:
            return
        is_new, gone = self._recent.touch(task_id)
        if gone is not None:
            await self._updates.unsubscribe(gone)
            self._view.forget(gone)
        if is_new:
            await self._updates.subscribe(task_id)


class Outcomes:
    """How the tasks that were asked for have ended, as far as they have."""

    def __init__(self, task_ids: Collection[str]) -> None:
        self._pending = set(task_ids)
        self._ended: dict[str, str] = {}

    def on_update(self, update: Update) -> None:
        """Take note of a task's status. A task that is tried again has not ended."""
        task_id = update.task_id
        if task_id is None or update.is_reset or task_id not in self._pending | self._ended.keys():
            return
        if update.is_terminal:
            self._pending.discard(task_id)
            self._ended[task_id] = str(update.state["status"])
        else:
            self._pending.add(task_id)
            self._ended.pop(task_id, None)

    @property
    def are_complete(self) -> bool:
        """Whether there were tasks, and all have ended."""
        return not self._pending and bool(self._ended)

    @property
    def status(self) -> ExitStatus:
        """The exit status: that of the worst end."""
        statuses = set(self._ended.values())
        if "failed" in statuses:
            return ExitStatus.TASK_FAILED
        return ExitStatus.TASK_CANCELLED if "cancelled" in statuses else ExitStatus.SUCCESS


async def follow(
    url: str, task_ids: Collection[str], view: View, *, general: bool, all_tasks: bool, until_ended: bool
) -> ExitStatus:
    """Show updates. Cancelling closes the connection.

    Args:
        url: Of the relay's ``/ws/tasks``.
        task_ids: Tasks to follow.
        view: Where to show them.
        general: Show general updates.
        all_tasks: Follow also the tasks that the relay lists and those that are announced, the most recent 200.
        until_ended: Return when all of `task_ids` have ended; otherwise it goes on.

    Raises:
        TailError: The URL does not fit `all_tasks`.
        SubscriptionError: The relay refuses this client.
    """
    list_url = http_url(url, f"{environment.api_prefix()}/tasks?limit={MAX_TASKS}")
    if all_tasks and list_url is None:
        raise TailError(f"--all needs a URL that ends with /ws/tasks, not {url}", ExitStatus.USAGE)
    ready_url = http_url(url, "/readyz")
    outcomes = Outcomes(task_ids)
    refused: SubscriptionError | None = None

    def on_connection(change: ConnectionChange) -> None:
        view.remark(str(change))

    async with trio.open_nursery() as nursery:
        await nursery.start(view.run)
        if ready_url is not None:
            nursery.start_soon(watch_readiness, ready_url, view)
        async with subscribe(url, task_ids, general=general or all_tasks, on_connection=on_connection) as updates:
            follower = _AllTasks(list_url or "", updates, RecentTasks(MAX_TASKS, task_ids), view)
            if all_tasks:
                nursery.start_soon(follower.run)
            try:
                async for update in updates:
                    if update.is_reset:
                        view.remark(f"some updates were lost: {update.channel}")
                    view.show(update)
                    outcomes.on_update(update)
                    if until_ended and outcomes.are_complete:
                        break
                    if all_tasks:
                        await follower.on_update(update)
            except SubscriptionError as error:
                refused = error
        nursery.cancel_scope.cancel()
    if refused is not None:
        raise refused
    return outcomes.status
