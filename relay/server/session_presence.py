"""A client that has an id: it can be addressed, it is present in channels, and it is notified who joins and leaves."""

from collections.abc import Iterable

from relay.core.batches import format_of
from relay.core.client_subscriptions import SubscriptionSet
from relay.core.membership import members_channel
from relay.protocols.base import Join, Subscribe
from relay.server.session_connection import Connection
from relay.server.session_context import SessionContext
from relay.server.subscription_run import SubscriptionRun, request_of


def _no_answer(_result: object) -> Iterable[bytes]:
    return ()


def _ignore(_command: Subscribe, _code: str, _message: str) -> None:
    """Without Redis nobody can say who comes and goes; the client is served all the same."""


class SessionPresence:
    """Where one client is present.

    Args:
        context: What all sessions share.
        connection: The client's connection, which takes orders.
        client: Its id.
        user: Its user; empty for none.
    """

    __slots__ = ("_client", "_context", "_following", "_joined")

    def __init__(self, context: SessionContext, connection: Connection, client: str, user: str) -> None:
        self._context = context
        self._client = client
        self._joined: dict[str, None] = {}
        self._following = SubscriptionSet(context.hub, connection)
        context.directory.add(connection, client, user)

    def add(self, command: Join) -> None:
        """Be present in a channel, unless the client has gone."""
        if not self._following.is_closed:
            self._joined[command.channel] = None
            self._context.services.presence.add(command.channel, self._client, command.member)

    async def join(self, command: Join, connection: Connection) -> None:
        """Be present in a channel. The client is notified of itself too, so it listens first."""
        if command.encoding is not None:
            follow = Subscribe(members_channel(command.channel), command.encoding, _no_answer)
            request = request_of(follow, format_of(command.encoding, connection.framing))
            context = self._context
            read = context.histories.read
            run = SubscriptionRun(context, connection, self._following, follow, request, read, _ignore)
            await run.run()
        self.add(command)

    def leave(self, channel: str) -> None:
        """Leave a channel, if the client is present there."""
        if channel in self._joined:
            del self._joined[channel]
            self._following.end(members_channel(channel))
            self._context.services.presence.remove(channel, self._client)

    def end(self) -> None:
        """Leave all channels, and be known no longer. May be called again."""
        self._following.close()
        for channel in list(self._joined):
            self.leave(channel)
        self._context.directory.remove(self._client)
