"""The contract of a protocol: a client's messages in, commands for the session out, updates to payloads.

A protocol decides what words mean; it knows neither sockets nor the hub. One instance serves one client. To add a
protocol is to write such a class and to name it at a door in `relay.server.routes`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from relay.core.batches import Encoding
from relay.core.closecodes import Close
from relay.core.recovery import SubscribeResult
from relay.core.updates import Position


@dataclass(frozen=True, slots=True)
class Subscribe:
    """The client wants to follow a channel.

    encoding: how its updates are worded
    answer:   the payloads that answer it, before any update; the argument says what the client gets of the past, and is
              None where that is not known or not wanted
    since:    the position to resume from, None for a newcomer
    wants_history: the client is to get what was before: the state, or what came after `since`
    requires_position: it relies on positions, so it is refused while Redis is away; others are served live, and get the state
    later
    """

    channel: str
    encoding: Encoding
    answer: Callable[[SubscribeResult | None], Iterable[bytes]]
    since: Position | None = None
    wants_history: bool = True
    requires_position: bool = False


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """The client no longer wants a channel; ``payload`` answers it."""

    channel: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that changes nothing."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """The client's message was wrong; ``payload`` tells it why, ``code`` is the metrics label."""

    code: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class End:
    """The session is over."""

    close: Close


Command = Subscribe | Unsubscribe | Reply | Refusal | End


class ClientProtocol(Protocol):
    """One client's side of a protocol."""

    def open(self) -> Iterable[Command]:
        """What a new client gets without asking."""

    def receive(self, message: str | bytes) -> Iterable[Command]:
        """What a message of the client asks for; bad input is answered by a Refusal or an End, never raised."""

    def refuse(self, code: str, message: str) -> Refusal:
        """The answer when the session cannot do what was asked, for instance when a limit is reached."""
