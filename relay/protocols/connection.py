"""wsproto's connection as Relay's server side uses it: the one place that knows wsproto's parts."""

import struct

from wsproto.connection import Connection, ConnectionType
from wsproto.extensions import Extension
from wsproto.frame_protocol import Frame, FrameProtocol

from relay.protocols.deflate import negotiate

#: Registered since wsproto's table of codes was written: the server was a gateway, and its upstream answered wrongly.
_BAD_GATEWAY = 1014

_code = struct.Struct("!H")


class _FrameProtocol(FrameProtocol):
    """Accepts the close code 1014, which is registered, but unknown to wsproto 1.3.2."""

    def _process_close(self, frame: Frame) -> Frame:
        payload = frame.payload
        if not isinstance(payload, bytes | bytearray) or payload[:2] != _code.pack(_BAD_GATEWAY):
            return super()._process_close(frame)
        like_another = frame._replace(payload=_code.pack(_BAD_GATEWAY - 1) + payload[2:])
        read = super()._process_close(like_another)
        assert isinstance(read.payload, tuple)
        return read._replace(payload=(_BAD_GATEWAY, read.payload[1]))


class ServerConnection(Connection):
    """The server's side of a WebSocket connection after its handshake.

    Args:
        extensions: What was negotiated.
    """

    def __init__(self, extensions: list[Extension]) -> None:
        super().__init__(ConnectionType.SERVER)
        self._proto: FrameProtocol = _FrameProtocol(client=False, extensions=extensions)

    @property
    def in_frame(self) -> bool:
        """Whether a frame has begun and is not complete."""
        decoder = self._proto._frame_decoder
        return decoder.header is not None or len(decoder.buffer) > 0


def connection_of(offers: str, max_message: int) -> ServerConnection:
    """Return the connection after a handshake in which these offers were answered.

    Args:
        offers: The extensions that the client offered.
        max_message: Longest message in bytes, after inflating.
    """
    agreed = negotiate(offers, max_message)
    return ServerConnection([] if agreed is None else [agreed[0]])
