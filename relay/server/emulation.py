"""Clients of the Centrifuge protocol without WebSockets, who send each message as a request of its own.

The requests name the node and the session that the answer to `connect` has. One that reaches another relay is passed on through
Redis.
"""

import secrets
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec
import structlog
import trio
from relay_wire import keys

from relay.core.closecodes import Close
from relay.core.errors import BadMessage
from relay.core.json_errors import NOT_JSON
from relay.protocols.frames import Event, Received

_log = structlog.get_logger("relay.emulation")

#: Messages of one client that wait to be read. One more ends its connection.
_MAX_WAITING = 64


class Inbox:
    """What one client has sent by requests of its own, and not been read yet.

    Attributes:
        frames: Messages that were read.
        size: Their bytes.
    """

    def __init__(self) -> None:
        self._messages: deque[str] = deque()
        self._arrived = trio.Event()
        self.frames = 0
        self.size = 0

    def put(self, message: str) -> bool:
        """Take a message; return False if there are too many already."""
        if len(self._messages) >= _MAX_WAITING:
            return False
        self._messages.append(message)
        self._arrived.set()
        return True

    async def receive_or(self, receive: Callable[[], Awaitable[list[Event]]]) -> list[Event]:
        """Wait for messages, or for what the connection itself brings."""
        events: list[Event] = []

        async def watch() -> None:
            nonlocal events
            while not events:
                events = await receive()
            nursery.cancel_scope.cancel()

        if not self._messages:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                await self._arrived.wait()
                nursery.cancel_scope.cancel()
        else:
            await trio.lowlevel.checkpoint()
        if events:
            return events
        message = self._messages.popleft()
        if not self._messages:
            self._arrived = trio.Event()
        self.frames += 1
        self.size += len(message)
        return [Received(message)]


class EmulationRequest(msgspec.Struct):
    """What a client sends by a request of its own.

    Attributes:
        session: Which client it is.
        node: Its relay.
        data: The message.
    """

    session: str
    node: str
    data: str


def read_request(body: bytes | str) -> EmulationRequest:
    """Return the request in a body.

    Raises:
        BadMessage: It cannot be read.
    """
    try:
        return msgspec.json.decode(body, type=EmulationRequest)
    except NOT_JSON as error:
        raise BadMessage("not_json", f"not a message of a client: {error}") from None


class _Message(msgspec.Struct):
    session: str
    data: str


class Emulation:
    """The sessions of this relay whose messages come as requests.

    Args:
        publish: Publishes on a Redis channel; returns how many have received it.
        max_message: Longest message, in bytes.

    Attributes:
        node: The name of this relay.
    """

    def __init__(self, publish: Callable[[str, bytes], Awaitable[int]], max_message: int) -> None:
        self._publish = publish
        self.max_message = max_message
        self.node = secrets.token_hex(16)
        self._sessions: dict[str, tuple[Inbox, Callable[[Close], None]]] = {}

    @property
    def redis_channel(self) -> str:
        """Where other relays send what concerns this one's clients."""
        return keys.NODE + self.node

    def new_session(self) -> str:
        """Return a session's name, which nobody can guess."""
        return secrets.token_urlsafe(24)

    def add(self, session: str, inbox: Inbox, close: Callable[[Close], None]) -> None:
        """Note a session that begins."""
        self._sessions[session] = inbox, close

    def remove(self, session: str) -> None:
        """Forget a session that has ended."""
        self._sessions.pop(session, None)

    def deliver(self, session: str, data: str) -> None:
        """Give a message to its session; one that is gone changes nothing."""
        found = self._sessions.get(session)
        if found is None:
            return
        inbox, close = found
        if not inbox.put(data):
            close(Close.FLOODING)

    def on_message(self, _channel: str, message: bytes) -> None:
        """Take what another relay has received."""
        try:
            received = msgspec.json.decode(message, type=_Message)
        except NOT_JSON:
            _log.warning("message skipped: not a client's", size=len(message))
            return
        self.deliver(received.session, received.data)

    async def send(self, node: str, session: str, data: str) -> bool:
        """Give a message to a session of any relay; return False where there is no such relay.

        Raises:
            BrokerError: It is another relay's, and Redis cannot be reached.
        """
        if node == self.node:
            self.deliver(session, data)
            return True
        if len(node) > 64:
            return False
        return await self._publish(keys.NODE + node, msgspec.json.encode(_Message(session, data))) > 0
