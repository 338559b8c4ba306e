"""A server's own protocol as data: how its clients subscribe, and how updates are published to it."""

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, Self

from benchmarks.wire import BINARY, EVERYONE, TEXT, Update, masked, resp

#: Accepts any certificate: only our own servers are connected to.
TLS_CONTEXT = ssl.create_default_context()
TLS_CONTEXT.check_hostname = False
TLS_CONTEXT.verify_mode = ssl.CERT_NONE


_POSITION = re.compile(rb'"position":(\{[^{}]*\})')
_EPOCH, _OFFSET = re.compile(rb'"epoch":"([^"]*)"'), re.compile(rb'"offset":([0-9]+)')


def position_of_relay(reply: bytes, last: bytes) -> str | None:  # noqa: ARG001 - each update has the whole of it
    """Return the position that stands in a client's last update, on `/ws/tasks`."""
    found = _POSITION.findall(last)
    return found[-1].decode() if found else None


def position_of_centrifuge(reply: bytes, last: bytes) -> str | None:
    """Return what a Centrifuge client asks for that returns: the epoch was in the reply, the offset is in its last update."""
    epochs, offsets = _EPOCH.findall(reply), _OFFSET.findall(last)
    return (
        f',"recover":true,"epoch":"{epochs[-1].decode()}","offset":{offsets[-1].decode()}'
        if epochs and offsets
        else None
    )


@dataclass(frozen=True)
class Endpoint:
    """A URL for clients that follow one channel each. ``{task}`` and ``{position}`` stand for the client's own.

    Args:
        path: The target of the opening request.
        steps: What the client sends, and a text that the reply contains for which it waits; either may be None.
        kind: WebSocket, or server-sent events.
        framing: Whether each message is one update, or the payloads together are a stream of updates.
        pongs: Messages of the server that need a reply, and the reply.
        tls: Whether to use TLS; any certificate is accepted.
        token_secret: Where it is not empty, each client shows a token of its own, signed with it by HS256.
        find_position: Finds the position of a client in the last reply to it and the end of its last update.
        no_position: Stands in the place of a position that a client does not have.
        refusal: A text that replies contain to a client that is to try again later; empty where there are none.
        has_updates_in_reply: The last reply has the updates that the client missed.
        recovered: A text that replies contain to a client that has recovered.
        pack: Makes a binary message of a text that the client sends; without it texts are sent as they are.
    """

    path: str
    steps: tuple[tuple[str | None, str | None], ...] = ()
    kind: Literal["ws", "sse"] = "ws"
    framing: Literal["message", "stream"] = "message"
    pongs: dict[str, str] = field(default_factory=dict)
    tls: bool = False
    token_secret: str = ""
    find_position: Callable[[bytes, bytes], str | None] = position_of_relay
    no_position: str = "null"
    refusal: str = ""
    has_updates_in_reply: bool = False
    recovered: str = '"recovered":true'
    pack: Callable[[str], bytes] | None = None

    def frame(self, text: str) -> bytes:
        """Return the WebSocket frame in which a client sends a text."""
        return masked(TEXT, text.encode()) if self.pack is None else masked(BINARY, self.pack(text))

    def for_everyone(self) -> Self:
        """Return the endpoint of clients that all follow the channel for everyone."""
        steps = tuple((text and text.replace("{task}", EVERYONE), expect) for text, expect in self.steps)
        return replace(self, path=self.path.replace("{task}", EVERYONE), steps=steps)


def publish_to_channel(update: Update) -> bytes:
    """PUBLISH on one Redis channel per task, so that a peer need not look into the message."""
    return resp("PUBLISH", f"task:{update.channel}", update.payload)


@dataclass(frozen=True)
class Publishing:
    """How to publish over one TCP connection.

    Args:
        command: Returns the bytes that publish an update, its numbers left open.
        ack: What every reply contains exactly once.
        refusals: What only replies to refused updates contain.
        greeting: Sent first on a connection.
        flush: Asks for one reply to all updates so far, where updates have none of their own.
        script: Lua that Redis must load first.
    """

    command: Callable[[Update], bytes] = publish_to_channel
    ack: bytes = b"\r\n"
    refusals: tuple[bytes, ...] = (b"-ERR", b"-NOSCRIPT", b"-OOM", b"-MISCONF")
    greeting: bytes = b""
    flush: bytes = b""
    script: str = ""


#: Relay's WebSocket endpoint, and that of the peers that are programs of ours.
TASKS = Endpoint("/ws/tasks", (('{"type":"subscribe","task_id":"{task}"}', '"subscribed"'),))
