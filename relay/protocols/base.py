"""The contract of a protocol: a client's messages in, commands for the session out, updates to payloads.

A protocol decides what messages mean; it knows neither sockets nor the hub. One instance serves one client. To add a protocol
is to write such a class and to name it at an endpoint in `relay.server.routes`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from relay.core.batches import Encoding
from relay.core.closecodes import Close
from relay.core.families import MayWatch
from relay.core.recovery import SubscribeResult
from relay.core.updates import Position


@dataclass(frozen=True, slots=True)
class Subscribe:
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
    """

    channel: str
    encoding: Encoding
    answer: Callable[[SubscribeResult | None], Iterable[bytes]]
    since: Position | None = None
    wants_history: bool = True
    requires_position: bool = False
    filtered: Callable[[MayWatch], Encoding] | None = None


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


@dataclass(frozen=True, slots=True)
class End:
    """The session is over."""

    close: Close


Command = Subscribe | Unsubscribe | Reply | Refusal | Authenticate | End


class ClientProtocol(Protocol):
    """One client's side of a protocol."""

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
        """Return the message that the client's grant ends in so many seconds."""
