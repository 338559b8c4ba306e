"""A client of the Centrifuge protocol, whose session is played."""

from collections.abc import Iterable
from typing import Any

import msgspec

from relay.core.channels import ChannelPatterns
from relay.core.client_channels import ClientChannels, Namespace
from relay.core.closecodes import Close
from relay.core.connection_claims import read_connection_claims
from relay.core.errors import RelayError, Unauthenticated
from relay.core.grants import EVERYTHING, Grant
from relay.core.history_range import HistoryPart, HistoryRange
from relay.core.membership import Present
from relay.core.recovery import SubscribeResult
from relay.core.updates import Position, Update
from relay.protocols.base import (
    Admit,
    AskHistory,
    AskPresence,
    Command,
    End,
    Identify,
    Join,
    Permit,
    Publish,
    Reply,
    Subscribe,
    SubscribeBatch,
    Unsubscribe,
    VerifyToken,
)
from relay.protocols.centrifuge import CentrifugeProtocol
from relay.protocols.centrifuge_client import CentrifugeServer
from relay.protocols.centrifuge_commands import Codec
from relay.protocols.centrifuge_json import JsonCodec

JSON = JsonCodec()
NOW = 1_000_000.0
AT_7 = Position("e", 7)
EXPIRED = Unauthenticated("token_expired", "", Close.TOKEN_EXPIRED)
INVALID = Unauthenticated("bad_signature", "", Close.INVALID_TOKEN)


def update(offset: int, channel: str = "task:t") -> Update:
    return Update(channel, "task_update", b'{"n":%d}' % offset, 0.0, Position("e", offset))


class Client:
    """A client, and the session that executes its commands: every token holds, every channel is at `e:7`."""

    def __init__(
        self, *namespaces: Namespace, grant: Any = EVERYTHING, named: tuple[str, ...] = (), codec: Codec = JSON
    ) -> None:
        server = CentrifugeServer(
            ClientChannels(ChannelPatterns(named), namespaces), 25.0, "test", 128, now=lambda: NOW
        )
        self.protocol = CentrifugeProtocol(server, codec)
        #: The channels that the session follows.
        self.followed: set[str] = set()
        self.grant = grant
        self.result = SubscribeResult(AT_7, None, [])
        self.refuses: tuple[str, str] | None = None
        self.sent: list[Any] = []
        self.commands: list[Command] = []
        self.closed: Close | None = None
        self.id = self.user = ""
        self.present: Present | RelayError = Present({"a": b'{"user":"u"}', "b": b'{"user":"u"}'})
        self.part: HistoryPart | RelayError = HistoryPart(AT_7, [update(6), update(7)])
        self.wanted: HistoryRange | None = None
        self.publish_error: RelayError | None = None

    def _send(self, payloads: Iterable[bytes]) -> None:
        is_binary = self.protocol.is_binary
        self.sent += [payload if is_binary else msgspec.json.decode(payload) for payload in payloads if payload]

    def run(self, commands: Iterable[Command]) -> None:
        for command in commands:
            if self.closed is not None:
                return
            self.commands.append(command)
            match command:
                case End(close):
                    self.closed = close
                case Reply(payload):
                    self._send([payload])
                case Unsubscribe(channel, payload):
                    self.followed.discard(channel)
                    self._send([payload])
                case VerifyToken(_, answer):
                    self.run(answer(self.grant))
                case Subscribe():
                    self._subscribe(command)
                case SubscribeBatch(subscriptions, together):
                    for each in subscriptions:
                        self._subscribe(each)
                    self._send(together())
                case Identify(id, user):
                    self.id, self.user = id, user
                case AskPresence(_, answer):
                    self._send(answer(self.present))
                case AskHistory(_, wanted, answer):
                    self.wanted = wanted
                    self._send(answer(self.part))
                case Publish(_, _, answer):
                    self._send(answer(self.publish_error))
                case _:
                    assert isinstance(command, Admit | Permit | Join)

    def _subscribe(self, command: Subscribe) -> None:
        assert command.refuse is not None
        if self.refuses is not None:
            self._send([command.refuse(*self.refuses).payload])
            return
        result = self.result
        if command.since is not None:
            result = result._replace(recovered=command.since.epoch == "e")
        self.followed.add(command.channel)
        self._send(command.answer(result))

    def say(self, *commands: Any) -> list[Any]:
        """Send commands in one message; return what comes back."""
        self.sent = []
        self.run(self.protocol.receive("\n".join(msgspec.json.encode(command).decode() for command in commands)))
        return self.sent

    def connect(self, **request: Any) -> Any:
        (reply,) = self.say({"id": 1, "connect": request})
        return reply

    def follow(self, channel: str, **request: Any) -> Any:
        (reply,) = self.say({"id": 2, "subscribe": {"channel": channel, **request}})
        return reply


def connected(*namespaces: Namespace, **options: Any) -> Client:
    client = Client(*namespaces, **options)
    assert client.connect()["connect"]["client"] == client.id
    return client


def token(**claims: Any) -> Grant:
    return read_connection_claims(claims)
