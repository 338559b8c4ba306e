"""From a URL to an open WebSocket: TCP, TLS, and trio-websocket's handshake, whose stream is watched."""

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

_PORTS = {"ws": 80, "wss": 443}

#: Bytes read at once: as much as a relay writes at once.
_READ = 65536


class Broken(Exception):
    """There is no connection. ``is_wrong``: somebody else is there, by the certificate."""

    def __init__(self, message: str, *, is_wrong: bool = False) -> None:
        super().__init__(message)
        self.is_wrong = is_wrong


class Line(trio.abc.Stream):
    """A stream that tells when it has come to its end."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.on_end: Callable[[], None] = lambda: None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.on_end()
            raise

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            data = await self._stream.receive_some(max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.on_end()
            raise
        if not data:
            self.on_end()
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()


@dataclass(frozen=True, slots=True)
class Target:
    """Where a relay is.

    resource: path and query
    headers:  of the handshake, beyond those of WebSocket; they may be secret
    """

    url: str
    host: str
    port: int
    resource: str
    ssl_context: ssl.SSLContext | None
    headers: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, url: str, headers: Mapping[str, str] | None, ssl_context: ssl.SSLContext | None) -> "Target":
        """Read a URL; one without a path gets ``/ws/tasks``. Raises ValueError that says what is wrong with it."""
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError(
                f"a relay's URL is of the form ws://host:8000/ws/tasks or wss://host/ws/tasks, not {url!r}"
            )
        if parts.username or parts.password:
            raise ValueError("put no password into a relay's URL; give it as a header, such as Authorization")
        if parts.scheme == "ws" and ssl_context is not None:
            raise ValueError("an SSL context needs a wss:// URL")
        path = parts.path if parts.path not in ("", "/") else "/ws/tasks"
        shown = f"{parts.scheme}://{parts.netloc}{path}"
        context = (ssl_context or ssl.create_default_context()) if parts.scheme == "wss" else None
        pairs = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items())
        if any(byte in name + value for name, value in pairs for byte in b"\r\n\0"):
            raise ValueError("a header must be one line")
        resource = f"{path}?{parts.query}" if parts.query else path
        return cls(shown, parts.hostname, parts.port or _PORTS[parts.scheme], resource, context, pairs)

    @property
    def host_header(self) -> str:
        """As HTTP wants it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS["ws" if self.ssl_context is None else "wss"] else f"{host}:{self.port}"

    async def open_line(self) -> Line:
        """Connect, with TLS where the URL has it. Raises Broken. Cancelled, it leaves nothing open."""
        try:
            stream = await trio.open_tcp_stream(self.host, self.port)
        except OSError as error:
            raise Broken(_first_words(error)) from error
        if self.ssl_context is None:
            return Line(stream)
        secure = trio.SSLStream(stream, self.ssl_context, server_hostname=self.host, https_compatible=True)
        try:
            # Here rather than with the first byte, where trio-websocket would not say what is wrong.
            await secure.do_handshake()
        except trio.BrokenResourceError as error:
            await trio.aclose_forcefully(secure)
            cause = error.__cause__
            is_wrong = isinstance(cause, ssl.SSLCertVerificationError)
            raise Broken(f"TLS: {cause or error}", is_wrong=is_wrong) from error
        except BaseException:
            await trio.aclose_forcefully(secure)
            raise
        return Line(secure)


async def shake_hands(nursery: trio.Nursery, line: Line, target: Target, max_message: int) -> WebSocketConnection:
    """Open a WebSocket on a line; trio-websocket's reader runs in the nursery, and fails there with ConnectionRejected.

    Raises Broken when the line ends meanwhile, for which trio-websocket itself would wait for ever. Does not close the line.
    """
    with trio.CancelScope() as scope:
        line.on_end = scope.cancel
        try:
            return await wrap_client_stream(
                nursery,
                line,  # type: ignore[arg-type]  # any stream will do
                target.host_header,
                target.resource,
                extra_headers=list(target.headers),
                max_message_size=max_message,
                receive_buffer_size=_READ,
            )
        finally:
            line.on_end = lambda: None
    raise Broken("the connection was closed in the handshake")


def _first_words(error: OSError) -> str:
    """Trio puts what each address said into a group; the first is as good as any."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return str(cause or error)
