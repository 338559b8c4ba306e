"""What a Centrifuge client asks about channels without following them, and what it publishes."""

from collections.abc import Iterable
from typing import Any

import msgspec

from relay.core.client_channels import Namespace, channel_of_name
from relay.core.closecodes import Close
from relay.core.errors import BadMessage, Forbidden, RelayError
from relay.core.history_range import MAX_UPDATES, HistoryPart, HistoryRange
from relay.core.membership import Present
from relay.protocols.base import AskHistory, AskPresence, Command, End, Publish
from relay.protocols.centrifuge_client import CentrifugeClient
from relay.protocols.centrifuge_codes import ErrorCode
from relay.protocols.centrifuge_commands import ChannelRequest, HistoryRequest, PublishRequest, one_line


def _error_of(error: RelayError) -> ErrorCode:
    if isinstance(error, Forbidden):
        return ErrorCode.PERMISSION_DENIED
    return ErrorCode.BAD_REQUEST if isinstance(error, BadMessage) else ErrorCode.INTERNAL


class CentrifugeQueries:
    """The queries of one client.

    Args:
        client: The client.
    """

    __slots__ = ("_client",)

    def __init__(self, client: CentrifugeClient) -> None:
        self._client = client

    def _namespace(self, id: int, name: str) -> Namespace | Command:
        """Return the options of a channel, or the answer to a client that names none."""
        if name == "":
            return End(Close.BAD_REQUEST)
        channels = self._client.server.channels
        if not channels.is_valid(name):
            return self._client.error(id, ErrorCode.BAD_REQUEST)
        return channels.find(name) or self._client.error(id, ErrorCode.UNKNOWN_CHANNEL)

    def presence(self, id: int, request: ChannelRequest) -> Iterable[Command]:
        """Return what a ``presence`` asks for."""

        def result(present: Present) -> dict[str, Any]:
            return {"presence": {client: msgspec.Raw(info) for client, info in present.clients.items()}}

        return self._presence(id, request, "presence", result)

    def presence_stats(self, id: int, request: ChannelRequest) -> Iterable[Command]:
        """Return what a ``presence_stats`` asks for."""

        def result(present: Present) -> dict[str, Any]:
            return {"num_clients": len(present.clients), "num_users": present.user_count}

        return self._presence(id, request, "presence_stats", result)

    def _presence(self, id: int, request: ChannelRequest, key: str, result: Any) -> Iterable[Command]:
        namespace = self._namespace(id, request.channel)
        if not isinstance(namespace, Namespace):
            return (namespace,)
        if not namespace.presence:
            return (self._client.error(id, ErrorCode.NOT_AVAILABLE),)

        def answer(present: Present | RelayError) -> Iterable[bytes]:
            if isinstance(present, RelayError):
                return (self._client.error_payload(id, _error_of(present)),)
            return (self._client.codec.reply(id, key, result(present)),)

        return (AskPresence(channel_of_name(request.channel), answer),)

    def history(self, id: int, request: HistoryRequest) -> Iterable[Command]:
        """Return what a ``history`` asks for."""
        namespace = self._namespace(id, request.channel)
        if not isinstance(namespace, Namespace):
            return (namespace,)
        since = request.since
        if since is not None and (since.offset < 0 or (request.reverse and since.offset == 0)):
            return (self._client.error(id, ErrorCode.BAD_REQUEST),)
        limit = MAX_UPDATES if request.limit < 0 else min(request.limit, MAX_UPDATES)

        def answer(part: HistoryPart | RelayError) -> Iterable[bytes]:
            if isinstance(part, RelayError):
                return (self._client.error_payload(id, _error_of(part)),)
            epoch, offset = part.top or ("", 0)
            if since is not None and since.epoch not in ("", epoch):
                return (self._client.error_payload(id, ErrorCode.UNRECOVERABLE),)
            publications = self._client.codec.publications(part.updates, whole_values=False)
            result = {"publications": publications, "epoch": epoch, "offset": offset}
            return (self._client.codec.reply(id, "history", result),)

        wanted = HistoryRange(limit, None if since is None else min(since.offset, 2**53), request.reverse)
        return (AskHistory(channel_of_name(request.channel), wanted, answer),)

    def publish(self, id: int, request: PublishRequest) -> Iterable[Command]:
        """Return what a ``publish`` asks for."""
        namespace = self._namespace(id, request.channel)
        if not isinstance(namespace, Namespace):
            return (namespace,)
        data = bytes(request.data)
        if data == b"" or request.type != 0:
            return (self._client.error(id, ErrorCode.BAD_REQUEST),)
        if not namespace.allow_publish_for_client:
            return (self._client.error(id, ErrorCode.PERMISSION_DENIED),)

        def answer(error: RelayError | None) -> Iterable[bytes]:
            if error is not None:
                return (self._client.error_payload(id, _error_of(error)),)
            return (self._client.codec.reply(id, "publish", {}),)

        return (Publish(channel_of_name(request.channel), bytes(one_line(data)), answer),)
