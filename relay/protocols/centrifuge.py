"""One client of the Centrifuge protocol: what its commands mean. docs/centrifuge.md has the table.

==========  ==============================  ==========  =====================================================
state      event                            next        result
==========  ==============================  ==========  =====================================================
NEW         `connect`                       CONNECTING  the token is verified
NEW         any other command               (over)      3501
CONNECTING  the token holds                 CONNECTED   the reply, with the subscriptions that the token gives
CONNECTING  the token has expired, or       REFUSED     an error; what else comes is answered with 3501
            nobody can say
CONNECTING  the token does not hold         (over)      3500, 3501 without one
CONNECTED   `connect`                       (over)      3501
CONNECTED   any other command               CONNECTED   its reply
==========  ==============================  ==========  =====================================================
"""

from collections.abc import Callable, Iterable, Iterator
from enum import Enum, auto
from functools import partial
from math import ceil
from typing import Any
from uuid import uuid4

from msgspec.structs import replace

from relay.core.client_orders import DisconnectOrder, Order, RefreshOrder, SubscribeOrder, UnsubscribeOrder
from relay.core.closecodes import Close
from relay.core.connection_claims import ConnectionGrant, ServerSubscription
from relay.core.errors import BadMessage, Unauthenticated, Unverified
from relay.core.grants import Grant
from relay.protocols.base import Admit, Command, End, Farewell, Identify, Refusal, Reply, SubscribeBatch, VerifyToken
from relay.protocols.centrifuge_client import CentrifugeClient, CentrifugeServer, subscriptions_of
from relay.protocols.centrifuge_codes import DISCONNECT_OF, ErrorCode
from relay.protocols.centrifuge_commands import ClientCommand, Codec, ConnectRequest, RefreshRequest
from relay.protocols.centrifuge_queries import CentrifugeQueries
from relay.protocols.centrifuge_subscriptions import CentrifugeSubscriptions, Verified


class State(Enum):
    """Where a client stands; the table is above."""

    NEW = auto()
    CONNECTING = auto()
    CONNECTED = auto()
    REFUSED = auto()


class CentrifugeProtocol:
    """One client.

    Args:
        server: What all clients have in common.
        codec: The format of its messages.
        session: The name by which a client without a WebSocket sends its messages; empty for others.
        node: The relay that it sends them to.
    """

    __slots__ = ("_awaits_pong", "_client", "_disconnect", "_emulated", "_queries", "_state", "_subscriptions")

    admits = True

    def __init__(self, server: CentrifugeServer, codec: Codec, session: str = "", node: str = "") -> None:
        self._client = CentrifugeClient(server, codec)
        self._subscriptions = CentrifugeSubscriptions(self._client)
        self._queries = CentrifugeQueries(self._client)
        #: How the server's API ended the connection.
        self._disconnect: tuple[int, str] | None = None
        self._emulated = {"session": session, "node": node} if session else {}
        self._state = State.NEW
        self._awaits_pong = False

    @property
    def is_binary(self) -> bool:
        return self._client.codec.is_binary

    def open(self) -> Iterable[Command]:
        return ()

    def receive(self, message: str | bytes) -> Iterator[Command]:
        """Return the commands of a message one by one, since each may depend on what became of the one before."""
        try:
            commands = self._client.codec.decode(message)
        except BadMessage:
            commands = []
            yield End(Close.BAD_REQUEST)
        for command in commands:
            yield from self._answer(command)

    def _answer(self, command: ClientCommand) -> Iterable[Command]:
        if command.id == 0 and command.send is None:
            return self._on_pong()
        if self._state is State.REFUSED:
            return (End(Close.BAD_REQUEST),) if command.connect is None and command.subscribe is None else ()
        if (command.connect is None) == (self._state is State.NEW):
            return (End(Close.BAD_REQUEST),)
        for key, answer in _METHODS.items():
            request = getattr(command, key)
            if request is not None:
                return answer(self, command.id, request)
        return (End(Close.BAD_REQUEST),)

    def _on_pong(self) -> Iterable[Command]:
        if not self._awaits_pong:
            return (End(Close.BAD_REQUEST),)
        self._awaits_pong = False
        return ()

    # Connecting.

    def _connect(self, id: int, request: ConnectRequest) -> Iterable[Command]:
        self._state = State.CONNECTING
        return (VerifyToken(request.token or None, partial(self._on_verified, id, request)),)

    def _on_verified(self, id: int, request: ConnectRequest, grant: Verified) -> Iterable[Command]:
        if isinstance(grant, Unverified):
            self._state = State.REFUSED
            return (self._client.error(id, ErrorCode.INTERNAL),)
        if isinstance(grant, Unauthenticated):
            if grant.close is Close.TOKEN_EXPIRED or grant.code == "token_not_yet_valid":
                self._state = State.REFUSED
                return (self._client.error(id, ErrorCode.TOKEN_EXPIRED),)
            return (End(Close.BAD_REQUEST if request.token == "" else Close.INVALID_TOKEN),)
        if isinstance(grant, ConnectionGrant) and grant.channel is not None:
            return (End(Close.INVALID_TOKEN),)  # it is a subscription's
        return self._connected(id, request, grant)

    def _connected(self, id: int, request: ConnectRequest, grant: Grant) -> Iterable[Command]:
        client = self._client
        yield Admit(client.admit(grant))
        self._state = State.CONNECTED
        client.id = str(uuid4())
        yield Identify(client.id, client.user)
        subs: dict[str, Any] = {}
        result: dict[str, Any] = {
            "client": client.id,
            "version": client.server.version,
            **client.lifetime(grant),
            "subs": subs,
            "ping": max(1, ceil(client.server.ping_interval)),
            "pong": True,
            **self._emulated,
        }
        # A client that was given others while it was connected has them in its request only.
        wanted = dict.fromkeys(request.subs, ServerSubscription()) | dict(subscriptions_of(grant))
        commands = self._subscriptions.give(wanted, request.subs, subs)
        yield SubscribeBatch(commands, lambda: (client.codec.reply(id, "connect", result),))
        for name in subs:
            yield from self._subscriptions.join(name, wanted[name].info, was_requested=False)

    def _refresh(self, id: int, request: RefreshRequest) -> Iterable[Command]:
        if request.token == "":
            return (End(Close.BAD_REQUEST),)
        return (VerifyToken(request.token, partial(self._on_refresh_verified, id)),)

    def _on_refresh_verified(self, id: int, grant: Verified) -> Iterable[Command]:
        if isinstance(grant, Unverified):
            return (self._client.error(id, ErrorCode.INTERNAL),)
        if isinstance(grant, Unauthenticated):
            return (End(Close.TOKEN_EXPIRED if grant.close is Close.TOKEN_EXPIRED else Close.INVALID_TOKEN),)
        is_own = grant.subject == self._client.grant.subject
        if not is_own or (isinstance(grant, ConnectionGrant) and grant.channel is not None):
            return (End(Close.INVALID_TOKEN),)
        if subscriptions_of(grant).keys() != subscriptions_of(self._client.grant).keys():
            return (End(Close.INSUFFICIENT_STATE),)  # connecting again gives it what the token says now
        return (Admit(self._client.admit(grant)), self._client.reply(id, "refresh", self._client.lifetime(grant)))

    # What is not offered.

    def _not_available(self, id: int, request: Any) -> Iterable[Command]:  # noqa: ARG002 - whatever it is
        return (self._client.error(id, ErrorCode.NOT_AVAILABLE),)

    def _send(self, id: int, request: Any) -> Iterable[Command]:  # noqa: ARG002 - whatever it is
        return (End(Close.NOT_AVAILABLE),)

    # What the session asks for.

    def refuse(self, code: str, message: str, channel: str) -> Refusal:  # noqa: ARG002 - see the contract
        return self._subscriptions.refuse(code, channel)

    def reject(self, code: str, message: str) -> Refusal:  # noqa: ARG002 - the close code says it
        return Refusal(code, b"")

    def expiry_notice(self, seconds: float) -> bytes:  # noqa: ARG002 - the client was told when it connected
        return b""

    def on_order(self, order: Order) -> Iterable[Command]:
        if self._state is not State.CONNECTED:
            return ()
        match order:
            case SubscribeOrder():
                return self._subscriptions.on_subscribe_order(order)
            case UnsubscribeOrder():
                return self._subscriptions.on_unsubscribe_order(order)
            case DisconnectOrder(code, reason):
                self._disconnect = code, reason
                return (End(Close.DISCONNECTED),)
            case RefreshOrder(expired, expires_at):
                return (End(Close.TOKEN_EXPIRED),) if expired else self._on_refresh_order(expires_at)

    def _on_refresh_order(self, expires_at: float | None) -> Iterable[Command]:
        client = self._client
        grant = replace(client.grant, expires_at=expires_at)
        if isinstance(grant, ConnectionGrant):
            grant = replace(grant, ends_at=None)
        push = client.codec.push({"refresh": client.lifetime(grant)})
        return (Admit(client.admit(grant)), Reply(push))

    def heartbeat(self) -> Command | None:
        if self._state is not State.CONNECTED or self._awaits_pong:
            return None
        self._awaits_pong = True
        return Reply(self._client.codec.ping)

    def check_pong(self) -> Command | None:
        return End(Close.NO_PONG) if self._awaits_pong else None

    def farewell(self, close: Close, retry_after: float | None = None) -> Farewell:  # noqa: ARG002 - SDKs have their own
        code, reason = DISCONNECT_OF.get(close, (close.code, close.reason))
        if close is Close.DISCONNECTED and self._disconnect is not None:
            code, reason = self._disconnect
        return Farewell(code, reason, self._client.codec.push({"disconnect": {"code": code, "reason": reason}}))


_METHODS: dict[str, Callable[[CentrifugeProtocol, int, Any], Iterable[Command]]] = {
    "connect": CentrifugeProtocol._connect,
    "subscribe": lambda self, id, request: self._subscriptions.subscribe(id, request),
    "unsubscribe": lambda self, id, request: self._subscriptions.unsubscribe(id, request),
    "refresh": CentrifugeProtocol._refresh,
    "sub_refresh": lambda self, id, request: self._subscriptions.sub_refresh(id, request),
    "rpc": CentrifugeProtocol._not_available,
    "publish": lambda self, id, request: self._queries.publish(id, request),
    "presence": lambda self, id, request: self._queries.presence(id, request),
    "presence_stats": lambda self, id, request: self._queries.presence_stats(id, request),
    "history": lambda self, id, request: self._queries.history(id, request),
    "send": CentrifugeProtocol._send,
}
