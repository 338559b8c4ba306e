"""What a fresh connection is for, by the first bytes on it: a client of an endpoint, or a request that the server answers.

A plain opening handshake is decided and answered at once, in one write, by the same checks as any other way in. Only where
something has to be awaited, the rest of a head or the connect rate, there is a task for it.
"""

import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import structlog
import trio

from relay.core.client_address import ClientAddress
from relay.protocols.connection import connection_of
from relay.protocols.frames import FrameReader
from relay.protocols.handshake import MAX_HEAD, Handshake, has_too_many_lines, read_handshake
from relay.server.admission import CLIENT_LIMIT, Admission, whole_seconds
from relay.server.connect_gate import CONNECT_RATE
from relay.server.endpoints import Endpoint, Opening
from relay.server.http_connections import Handler
from relay.server.session import Session
from relay.server.socket_options import reset
from relay.server.socket_watch import SocketWatch
from relay.server.transports import socket_transport
from relay.server.turnstile import Turnstile
from relay.server.unserved_connections import UnservedConnections

_log = structlog.get_logger("relay.acceptor")

_GET = b"GET "
_HEAD_END = b"\r\n\r\n"

#: Bytes of heads that are not complete, of all connections together, beyond which a head may have `_SHORT_HEAD` bytes only.
_INCOMPLETE_HEADS = 16 * 1024 * 1024
_SHORT_HEAD = 8 * 1024

#: Bytes that are read without a task: those of an ordinary handshake.
_ONE_READ = 4096

#: Handshakes answered in one turn of the event loop, of those that have a task.
_HANDSHAKES_AT_ONCE = 16

#: Requests that are answered when files run out.
_HEALTH_REQUESTS = (b"GET /healthz ", b"GET /readyz ", b"GET /metrics ")

_REFUSAL = b"HTTP/1.1 %b\r\nConnection: close\r\nRetry-After: %d\r\nContent-Length: 0\r\n\r\n"
_UNAVAILABLE = b"503 Service Unavailable"
_NO_FILES = _REFUSAL % (_UNAVAILABLE, 5)
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_TOO_MANY = b"429 Too Many Requests"


class Server(NamedTuple):
    """The server that answers what is no client's.

    Attributes:
        handler: Serves one connection.
        nursery: Where the handler runs.
        idle_timeout: Seconds that a fresh connection may be silent.
    """

    handler: Handler
    nursery: trio.Nursery
    idle_timeout: float


class Connection:
    """A connection that nobody serves yet.

    Args:
        sock: Its socket.
        address: Its other end.
        key: Under which it is counted as unserved.
        server: Serves it, if it is not a client's.
        on_readable: Called with this connection when it can be read, and with whether its end is behind what can be read.
        close: Called with this connection when it is to be closed, since it is silent.
    """

    __slots__ = ("_close", "_on_readable", "address", "due", "fileno", "is_short_of_files", "key", "server", "sock")

    def __init__(
        self,
        sock: socket.socket,
        address: Any,
        key: str | None,
        server: Server,
        on_readable: "Callable[[Connection, bool], None]",
        close: "Callable[[Connection], None]",
    ) -> None:
        self.sock = sock
        self.fileno = sock.fileno()
        self.address = address
        self.key = key
        self.server = server
        self._on_readable = on_readable
        self._close = close
        #: Only a request for the relay's health is answered.
        self.is_short_of_files = False
        #: When it has been silent for too long, on Trio's clock.
        self.due = trio.current_time() + server.idle_timeout

    def on_readable(self, *, is_last: bool) -> None:
        """Something new can be read."""
        self._on_readable(self, is_last)

    def abort(self) -> None:
        """Cut it off."""
        reset(self.sock)

    def on_watch_ended(self) -> None:
        """Close it: the relay stops."""
        self._close(self)

    def cancel(self) -> None:
        """Close it: the relay drains."""
        self._close(self)


class _Request(NamedTuple):
    """A client's handshake which may be accepted, as far as that can be said before its turn."""

    handshake: Handshake
    endpoint: Endpoint
    client: ClientAddress
    data: bytes


#: What is to be awaited before the decision about a connection.
Remainder = Callable[[], Awaitable[None]]


class FirstRequests:
    """Reads the first request of each connection, and accepts, refuses or delegates it.

    Args:
        endpoints: Paths, and what makes a client's protocol there.
        admission: Decides who may connect.
        unserved: Counts the connections that nobody serves.
        watch: Reports what comes on connections without a task.
    """

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        admission: Admission,
        unserved: UnservedConnections,
        watch: SocketWatch,
    ) -> None:
        self._endpoints = {path.encode(): endpoint for path, endpoint in endpoints.items()}
        self._admission = admission
        self._context = admission.context
        self._settings = admission.settings
        self._unserved = unserved
        self._watch = watch
        self._incomplete = 0
        self._handshakes = Turnstile(_HANDSHAKES_AT_ONCE)

    def refuse(self, connection: Connection, retry_after: float, reason: str = CLIENT_LIMIT) -> None:
        """Refuse a connection, of an address that has too many unless another reason is given, and close it."""
        self._admission.count_refusal(reason)
        status = _TOO_MANY if reason == CLIENT_LIMIT else _UNAVAILABLE
        self.close(connection, _REFUSAL % (status, whole_seconds(retry_after)))

    def read_now(self, connection: Connection, *, is_last: bool) -> None:
        """Serve a connection that can be read, at once or with a task.

        Args:
            connection: The connection, which is counted as unserved.
            is_last: Behind what can be read is the end.
        """
        remainder: Remainder | None = None
        try:
            data = _receive(connection.sock)
            if data is None or len(data) == _ONE_READ or (data and not _is_whole(data)):
                remainder = partial(self._read_on, connection, data or b"", connection.server.idle_timeout)
            else:
                remainder = self._decide(connection, data, is_drained=not is_last)
        except Exception as error:  # noqa: BLE001 - see _give_up
            self._give_up(connection, error)
        if remainder is None:
            self._unserved.remove(connection.key)
        else:
            self._admission.start(partial(self._run, connection, remainder), connection.sock.close)

    async def read(self, connection: Connection, timeout: float) -> None:
        """Wait for the first request of a connection that is counted as unserved, and serve it.

        Args:
            connection: The connection.
            timeout: Seconds that it may be silent.
        """
        await self._run(connection, partial(self._read_on, connection, b"", timeout))

    async def _run(self, connection: Connection, remainder: Remainder) -> None:
        try:
            await remainder()
        except Exception as error:  # noqa: BLE001 - see _give_up
            self._give_up(connection, error)
        except BaseException:
            self._reset(connection)
            raise
        finally:
            self._unserved.remove(connection.key)

    def _give_up(self, connection: Connection, error: Exception) -> None:
        """Reset a connection: the client hung up, or there is a bug, which must not end the others."""
        if not isinstance(error, OSError):
            _log.error("connection failed", client=connection.address, exc_info=error)
        self._reset(connection)

    def _reset(self, connection: Connection) -> None:
        self._watch.remove(connection.fileno, connection)
        reset(connection.sock)

    def close(self, connection: Connection, answer: bytes = b"") -> None:
        """Close a connection, after a last answer."""
        self._watch.remove(connection.fileno, connection)
        if answer:
            with suppress(OSError):  # it hung up
                connection.sock.send(answer)
        connection.sock.close()

    async def _read_on(self, connection: Connection, data: bytes, timeout: float) -> None:
        data = await self._first_bytes(connection.sock, data, timeout)
        if data:
            await self._handshakes.turn()
        remainder = self._decide(connection, data, is_drained=False)
        if remainder is not None:
            await remainder()

    async def _first_bytes(self, sock: socket.socket, data: bytes, idle_timeout: float) -> bytes:
        """Return the first bytes of a connection: of a GET the whole head, which may come in several segments.

        They are b"" when it ends without any, is silent, or the relay drains. A head that is too long is cut off.

        Args:
            sock: Its socket.
            data: What was read already.
            idle_timeout: Seconds within which they have to come.

        Raises:
            OSError: The connection broke.
        """
        with trio.move_on_after(idle_timeout) as scope, self._context.registry.silent_connection(scope):
            while True:
                longest = MAX_HEAD if self._incomplete < _INCOMPLETE_HEADS else _SHORT_HEAD
                if len(data) >= longest:
                    return data
                try:
                    more = sock.recv(longest - len(data))
                except BlockingIOError:
                    self._incomplete += len(data)
                    try:
                        await trio.lowlevel.wait_readable(sock)
                    finally:
                        self._incomplete -= len(data)
                    continue
                if data and not more:
                    return b""  # it hung up in the middle
                data += more
                if not more or _is_whole(data):
                    return data
        return b""

    def _decide(self, connection: Connection, data: bytes, *, is_drained: bool) -> Remainder | None:
        """Serve a connection by its first bytes; returns what is to be awaited before.

        Args:
            connection: The connection.
            data: The first bytes; b"" for one that is to be closed.
            is_drained: Nothing more has come.

        Raises:
            OSError: The client has gone.
        """
        admission = self._admission
        is_too_large = has_too_many_lines(data) or (data.startswith(_GET) and _HEAD_END not in data)
        handshake = None if connection.is_short_of_files or is_too_large or not data else read_handshake(data)
        endpoint = None if handshake is None else self._endpoints.get(handshake.path)
        if handshake is not None and endpoint is not None:
            client = admission.proxies.client(connection.address, handshake.headers)
            if (retry_after := admission.retry_after(client)) is not None:
                self.refuse(connection, retry_after)
                return None
            if admission.is_allowed(handshake.headers, handshake.query):
                request = _Request(handshake, endpoint, client, data)
                if admission.gate.has_limit:
                    return partial(self._enter_in_turn, connection, request)
                self._enter(connection, request, is_drained=is_drained)
                return None
        if is_too_large:
            admission.count_refusal("too_large")
            self.close(connection, _TOO_LARGE)
        elif data and (not connection.is_short_of_files or data.startswith(_HEALTH_REQUESTS)):
            self._delegate(connection, data)
        elif data:
            admission.count_refusal("no_files")
            self.close(connection, _NO_FILES)
        else:
            self.close(connection)
        return None

    async def _enter_in_turn(self, connection: Connection, request: _Request) -> None:
        retry_after = await self._admission.gate.enter()
        if retry_after is None:
            self._enter(connection, request, is_drained=False)
        else:
            self.refuse(connection, retry_after, CONNECT_RATE)

    def _enter(self, connection: Connection, request: _Request, *, is_drained: bool) -> None:
        """Accept a client that may come in, unless its grant says otherwise.

        Raises:
            OSError: The client has gone.
        """
        handshake, endpoint, client, data = request
        admission = self._admission
        if admission.is_full:  # others may have come in the meantime
            self._delegate(connection, data)
            return
        admission.limit_connect(client)
        entry = admission.entry(handshake.headers, handshake.query)
        if (retry_after := admission.retry_after_for(entry)) is not None:
            self.refuse(connection, retry_after)
            return
        protocol = endpoint(Opening(handshake.query, handshake.subprotocol))
        limit = self._settings.max_message_bytes
        reader = FrameReader(limit, partial(connection_of, handshake.offers, limit))
        transport = socket_transport(connection.sock, reader, None, is_binary=protocol.is_binary)
        transport.unread(handshake.early)
        session = Session(self._context, transport, protocol, client, entry, handshake.path.decode())
        session.register()  # before the answer: a client that has it misses nothing
        answer = handshake.accept()
        try:
            if connection.sock.send(answer) != len(answer):
                raise BlockingIOError("a fresh connection does not take 200 bytes")
        except OSError:
            session.unregister()
            raise
        self._watch.replace(connection.fileno, session)
        session.begin(connection.fileno, is_drained=is_drained and not handshake.early)

    def _delegate(self, connection: Connection, data: bytes) -> None:
        """Have the server serve a connection, which counts as unserved until it ends."""
        handler, nursery, _ = connection.server

        async def handle(stream: Any) -> None:
            try:
                await handler(stream)
            finally:
                self._unserved.remove(connection.key)

        self._watch.remove(connection.fileno, connection, stays_open=True)
        self._unserved.add(connection.key)
        _delegate(connection.sock, data, handle, nursery)


def _receive(sock: socket.socket) -> bytes | None:
    """Return what can be read; None if nothing can, b"" at the end."""
    try:
        return sock.recv(_ONE_READ)
    except BlockingIOError:
        return None


def _is_whole(data: bytes) -> bool:
    """Whether the first bytes of a connection say what it is for: the whole head of a GET, or that it is none."""
    return not data.startswith(_GET[: len(data)]) or _HEAD_END in data


def _delegate(fresh: socket.socket, data: bytes, handler: Handler, nursery: trio.Nursery) -> None:
    """Have the server serve a connection whose first bytes were read."""
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(fresh))

    receive_more = stream.receive_some

    async def receive_again(max_bytes: int | None = None) -> bytes:
        nonlocal data
        if not data:
            return await receive_more(max_bytes)
        await trio.lowlevel.checkpoint()
        first, data = data, b""
        return first

    async def serve() -> None:
        try:
            await handler(stream)
        finally:
            vars(stream).pop("receive_some", None)  # which refers to the stream
            await trio.aclose_forcefully(stream)

    stream.receive_some = receive_again  # type: ignore[method-assign]
    try:
        nursery.start_soon(serve)
    except RuntimeError:  # the server has just ended
        stream.socket.close()
