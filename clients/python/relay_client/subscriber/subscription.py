"""The object that `subscribe` opens, for every event loop: a connection kept up in the background, and its updates."""

import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self, TypedDict

from relay_wire.position import Position

from relay_client.subscriber.endpoint import Endpoint
from relay_client.subscriber.errors import SubscriptionClosed
from relay_client.subscriber.limits import ConnectionChange, Limits
from relay_client.subscriber.runtime import Runtime
from relay_client.subscriber.subscriptions import Subscriptions
from relay_client.subscriber.supervisor import ConnectionSupervisor, log_change
from relay_client.subscriber.text_stream import TextChunk, TextStream, channel_of_stream
from relay_client.subscriber.token import Token
from relay_client.subscriber.update import Update


class SubscribeOptions(TypedDict, total=False):
    """The options of `subscribe`, the same for every event loop.

    Attributes:
        families: Ids of tasks to follow together with their children, each with one position. Their channels are
            ``family:<id>``; `Update.member` says which task an update is of.
        general: Follow the general updates too. False by default.
        positions: By channel (``general``, ``task:<id>``), where to resume, as `Updates.positions` returned it. A task without
            one begins with its state, general updates without one with the next.
        states: The states at these positions, as `Updates.states` returned them. Without them `Update.state` has only the
            fields that came since.
        token: A token of the backend that knows what this subscriber may see; or a function that returns one, or an awaitable
            of one, for each connection and whenever the last token is about to end. It runs in the event loop.
        headers: Further headers for the handshake, for example for a proxy.
        ssl_context: For ``wss://``. By default the system's certificate authorities are trusted.
        limits: Time-outs and bounds.
        on_connection: Called when the connection is opened or lost. By default it is logged.
    """

    families: Iterable[str]
    general: bool
    positions: Mapping[str, tuple[str, int]] | None
    states: Mapping[str, Mapping[str, Any]] | None
    token: Token | None
    headers: Mapping[str, str] | None
    ssl_context: ssl.SSLContext | None
    limits: Limits | None
    on_connection: Callable[[ConnectionChange], None]


def new_subscription(
    runtime: Runtime,
    url: str | None,
    tasks: Iterable[str],
    *,
    families: Iterable[str] = (),
    general: bool = False,
    positions: Mapping[str, tuple[str, int]] | None = None,
    states: Mapping[str, Mapping[str, Any]] | None = None,
    token: Token | None = None,
    headers: Mapping[str, str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    limits: Limits | None = None,
    on_connection: Callable[[ConnectionChange], None] = log_change,
) -> tuple[Subscriptions, ConnectionSupervisor]:
    """Check the arguments of `subscribe` and make the parts; nothing runs yet. Raises ValueError."""
    limits = limits or Limits()
    endpoint = Endpoint.parse(url, headers, ssl_context)
    subscriptions = Subscriptions(
        tasks,
        families=families,
        general=general,
        positions=positions,
        states=states,
        max_waiting=limits.max_waiting,
        max_waiting_size=limits.max_waiting_size,
    )
    return subscriptions, ConnectionSupervisor(runtime, endpoint, subscriptions, limits, on_connection, token)


@asynccontextmanager
async def running(
    runtime: Runtime, subscriptions: Subscriptions, supervisor: ConnectionSupervisor
) -> AsyncIterator["Updates"]:
    """Keep the connection up for the time of the block. Left normally it is closed politely; cancelled, at once."""
    closed = SubscriptionClosed("this subscription is closed")
    async with runtime.in_background(supervisor.run):
        try:
            yield Updates(runtime, subscriptions, supervisor)
            supervisor.end(closed)
            await supervisor.close()
        finally:
            supervisor.end(closed)


class Updates:
    """An open subscription: an asynchronous iterator of updates. `subscribe` makes it.

    Its methods may be called from any task of the event loop that it was made in.
    """

    def __init__(self, runtime: Runtime, subscriptions: Subscriptions, supervisor: ConnectionSupervisor) -> None:
        self._runtime = runtime
        self._subscriptions = subscriptions
        self._supervisor = supervisor
        self._signals = supervisor.signals

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Update:
        """Wait for the next update and return it. Cancelling loses none. Of several consumers each gets a part.

        Raises:
            SubscriptionError: There will be no more updates; the subclass says why.
        """
        await self._runtime.checkpoint()
        while True:
            update = self._subscriptions.pop()
            if not self._subscriptions.is_full:
                self._signals.room_available.notify()
            if update is not None:
                return update
            if self._supervisor.ended is not None:
                raise self._supervisor.ended
            await self._signals.update_available.wait()

    async def subscribe(self, task_id: str) -> None:
        """Follow one more task, beginning with its state. No effect if it is followed already.

        Does not wait for the relay's answer: a refusal ends the iteration. Raises ValueError if it cannot be a task id.
        """
        self._subscriptions.add(task_id)
        self._signals.request_available.notify()
        await self._runtime.checkpoint()

    async def unsubscribe(self, task_id: str) -> None:
        """Stop following a task: no further update of it is returned, not even one that waits already."""
        self._subscriptions.remove(task_id)
        self._signals.request_available.notify()
        self._signals.answer_available.notify()
        await self._runtime.checkpoint()

    def stream(self, field: str, task_id: str | None = None) -> AsyncIterator[TextChunk]:
        """Iterate over the pieces of a text that grows, until its task has ended. It takes all updates of this subscription.

        Pieces are not repeated after a reconnection, nor in a subscription that begins with the positions and the states of an
        earlier one. A piece with ``is_restart`` begins the text again.

        Args:
            field: The field's name.
            task_id: The task; not needed if only one is followed.

        Raises:
            SubscriptionError: There will be no more updates.
            ValueError: Several tasks are followed, or none.
        """
        channel = channel_of_stream(self.tasks, task_id)
        known = self.states.get(channel, {}).get(field)
        return _Chunks(self, TextStream(channel, field, known if isinstance(known, str) else ""))

    async def established(self) -> None:
        """Wait until the relay follows everything that was requested: whatever is published afterwards arrives.

        Waits as long as there is no relay: put a deadline around it.

        Raises:
            SubscriptionError: There will be no more updates.
        """
        await self._runtime.checkpoint()
        while not self._subscriptions.is_established:
            if self._supervisor.ended is not None:
                raise self._supervisor.ended
            await self._signals.answer_available.wait()

    @property
    def tasks(self) -> list[str]:
        """The ids of the tasks that are followed."""
        return self._subscriptions.tasks

    @property
    def positions(self) -> dict[str, Position]:
        """By channel, the position of the last update that was taken. Give it to `subscribe` to resume from here."""
        return self._subscriptions.positions

    @property
    def states(self) -> dict[str, Mapping[str, Any]]:
        """By channel, the states of the tasks at these positions."""
        return self._subscriptions.states

    @property
    def waiting(self) -> int:
        """Updates that have arrived and were not yet taken."""
        return self._subscriptions.waiting


class _Chunks:
    """The pieces of a text. No generator: one that is left before its end has to be closed."""

    def __init__(self, updates: Updates, text_stream: TextStream) -> None:
        self._updates = updates
        self._text_stream = text_stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TextChunk:
        while not self._text_stream.has_ended:
            chunk = self._text_stream.feed(await anext(self._updates))
            if chunk is not None:
                return chunk
        raise StopAsyncIteration
