"""The contract of a protocol: a client's messages in, commands for the session out, updates to payloads.

A protocol decides what messages mean; it knows neither sockets nor the hub. One instance serves one client. To add a protocol
is to write such a class and to name it at an endpoint in `relay.server.routes`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec

from relay.core.batches import Encoding
from relay.core.client_orders import Order
from relay.core.closecodes import Close
from relay.core.errors import RelayError, Unauthenticated, Unverified
from relay.core.families import MayWatch
from relay.core.grants import Grant
from relay.core.history_range import HistoryPart, HistoryRange
from relay.core.membership import Member, Present
from relay.core.recovery import SubscribeResult
from relay.core.updates import Position


class Subscribe(msgspec.Struct, frozen=True):  # as a frozen dataclass it would take thirty times as long to make
    """The client subscribes to a channel.

    Attributes:
        channel: The channel's name.
        encoding: How its updates are serialised.
        answer: Makes the payloads that answer the client, before any update. Its argument says what the client gets of the
            channel's history, and is None where that is not known or not wanted.
        since: The position to resume from; None for a new subscriber.
        wants_history: The client gets the state, or what came after `since`, before live updates.
        requires_position: The client relies on positions, so it is refused while Redis is away. Other clients get live updates
            then, and the state when Redis is back.
        filtered: Makes the encoding for a client that may not watch all tasks, where the channel brings updates of several.
        updates_in_answer: What `answer` returns has the updates of its argument in it, so they are not sent again.
        grant: Allows this one subscription, besides what the client's own grant does. It ends the subscription when it ends.
        refuse: Makes the answer where the session cannot carry it out; by default `ClientProtocol.refuse` does.
    """

    channel: str
    encoding: Encoding
    answer: Callable[[SubscribeResult | None], Iterable[bytes]]
    since: Position | None = None
    wants_history: bool = True
    requires_position: bool = False
    filtered: Callable[[MayWatch], Encoding] | None = None
    updates_in_answer: bool = False
    grant: Grant | None = None
    refuse: "Callable[[str, str], Refusal] | None" = None


@dataclass(frozen=True, slots=True)
class SubscribeBatch:
    """The client subscribes to several channels, and gets one answer before any update of them.

    Attributes:
        subscriptions: Their own answers, which may be empty, are sent first.
        answer: Makes the payloads of the one answer, when each of them was answered or refused.
    """

    subscriptions: Sequence[Subscribe]
    answer: Callable[[], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """The client unsubscribes from a channel; `payload` answers it."""

    channel: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that changes nothing."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """The client's message was wrong.

    Attributes:
        code: The metrics label.
        payload: Says why.
        counts: Whether the connection ends after too many of them.
    """

    code: str
    payload: bytes
    counts: bool = True


@dataclass(frozen=True, slots=True, repr=False)
class Authenticate:
    """The client shows a token; `answer` makes the payload that answers it, once the token has been checked.

    Attributes:
        token: The token, which must not be logged.
        answer: Its argument says after how many seconds the client has to renew it; None is never.
    """

    token: str
    answer: Callable[[float | None], bytes]


@dataclass(frozen=True, slots=True, repr=False)
class VerifyToken:
    """The protocol wants to know what a token grants; nothing changes by that.

    Attributes:
        token: The token, which must not be logged; None for the credentials of the request that opened the connection.
        answer: Returns what is to be done then. Its argument is the grant, or why there is none.
    """

    token: str | None
    answer: "Callable[[Grant | Unauthenticated | Unverified], Iterable[Command]]"


@dataclass(frozen=True, slots=True)
class Admit:
    """The client has this grant from here on: its first one, or another one, with which it keeps what that allows."""

    grant: Grant


@dataclass(frozen=True, slots=True)
class Permit:
    """A subscription of the client has this grant of its own from here on, see `Subscribe.grant`."""

    channel: str
    grant: Grant


@dataclass(frozen=True, slots=True)
class Identify:
    """The client is known by an id from here on, by which the server's API may address it, and as one of a user's."""

    client: str
    user: str


@dataclass(frozen=True, slots=True)
class Join:
    """The client is present in a channel that it follows, for as long as it follows it.

    Attributes:
        channel: The channel.
        member: What others see.
        encoding: How the client itself gets joins and leaves; None if it does not.
    """

    channel: str
    member: Member
    encoding: Encoding | None


@dataclass(frozen=True, slots=True)
class AskPresence:
    """The client asks who is in a channel. `answer` makes the payloads, of that or of why it is not known."""

    channel: str
    answer: Callable[[Present | RelayError], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class AskHistory:
    """The client asks for a part of a channel's history. `answer` makes the payloads."""

    channel: str
    range: HistoryRange
    answer: Callable[[HistoryPart | RelayError], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Publish:
    """The client publishes an update, as JSON. `answer` makes the payloads; its argument is None when it is published."""

    channel: str
    data: bytes
    answer: Callable[[RelayError | None], Iterable[bytes]]


Query = AskPresence | AskHistory | Publish


@dataclass(frozen=True, slots=True)
class End:
    """The session is over."""

    close: Close


Command = (
    Subscribe
    | SubscribeBatch
    | Unsubscribe
    | Reply
    | Refusal
    | Authenticate
    | VerifyToken
    | Admit
    | Permit
    | Identify
    | Join
    | Query
    | End
)


class Farewell(NamedTuple):
    """The end of a session in the terms of a protocol.

    Attributes:
        code: The code of the WebSocket close frame.
        reason: The reason that goes with it.
        payload: A last message, for connections that have no close frames; empty for none.
        retry_after: Seconds after which the client should come back; None where that is left to it.
    """

    code: int
    reason: str
    payload: bytes = b""
    retry_after: float | None = None


class ProtocolDefaults:
    """What a protocol leaves to the session and the transport, unless it says otherwise: see `ClientProtocol`."""

    __slots__ = ()

    admits = False

    @property
    def is_binary(self) -> bool:
        """Payloads are texts."""
        return False

    def heartbeat(self) -> "Command | None":
        """Leave it to the transport."""
        return None

    def check_pong(self) -> "Command | None":
        """Leave it to the transport."""
        return None

    def on_order(self, order: Order) -> "Iterable[Command]":  # noqa: ARG002 - the contract's
        """Do nothing: the clients of this protocol have no ids."""
        return ()

    def farewell(self, close: Close, retry_after: float | None = None) -> Farewell:
        """Return the end as the registry of close codes has it, with the time to come back in its reason."""
        hint = "" if retry_after is None else f"; retry after {retry_after:.2f} s"
        return Farewell(close.code, close.reason + hint, retry_after=retry_after)


class ClientProtocol(Protocol):
    """One client's side of a protocol.

    Attributes:
        admits: The protocol itself decides from which message on a client is served, by `VerifyToken` and `Admit`; and refuses
            what comes before. For other protocols the session does.
        is_binary: Its payloads are bytes rather than texts.
    """

    admits: bool

    @property
    def is_binary(self) -> bool: ...

    def open(self) -> Iterable[Command]:
        """Return the commands of a connection that has just opened, before any message of the client."""

    def receive(self, message: str | bytes) -> Iterable[Command]:
        """Return what a message of the client asks for. Bad input becomes a Refusal or an End; nothing is raised."""

    def refuse(self, code: str, message: str, channel: str) -> Refusal:
        """Return the answer to a subscribe that the session cannot carry out, for instance when a limit is reached.

        It names the channel, since a client may have asked for several, and does not count towards the end of the connection.
        """

    def reject(self, code: str, message: str) -> Refusal:
        """Return the answer to a client whose credentials do not hold."""

    def expiry_notice(self, seconds: float) -> bytes:
        """Return the message that the client's grant ends in so many seconds; empty for none."""

    def heartbeat(self) -> Command | None:
        """Return the protocol's own heartbeat, which the client has to answer; None leaves it to the transport."""

    def check_pong(self) -> Command | None:
        """Return how a client ends that has not answered the last heartbeat in time; None for one that has."""

    def farewell(self, close: Close, retry_after: float | None = None) -> Farewell:
        """Return the end of a session in the protocol's terms.

        Args:
            close: Why it ends.
            retry_after: Seconds after which the client should come back; None where that is left to it.
        """

    def on_order(self, order: Order) -> Iterable[Command]:
        """Return what an order of the server's API comes to for this client."""
