"""wsproto's connection as Relay's server side uses it: the one place that knows wsproto's parts."""

import struct
from collections.abc import Generator

from wsproto.connection import Connection, ConnectionType
from wsproto.extensions import Extension
from wsproto.frame_protocol import Frame, FrameProtocol, Opcode

from relay.protocols.deflate import negotiate

#: Registered since wsproto's table of codes was written: the server was a gateway, and its upstream answered wrongly.
_BAD_GATEWAY = 1014

_code = struct.Struct("!H")


class _FrameProtocol(FrameProtocol):
    """wsproto's frames with two differences.

    It keeps no generator that refers to itself: such a cycle, with the decompressor in it, would outlive a client until the
    next collection of garbage. And it accepts the close code 1014, which is registered, but unknown to wsproto 1.3.2.
    """

    def __init__(self, extensions: list[Extension]) -> None:
        super().__init__(client=False, extensions=extensions)
        del self._parse_more  # as in `break_cycle`
        self._is_closed = False

    def received_frames(self) -> Generator[Frame, None, None]:
        while not self._is_closed and (frame := self._frame_decoder.process_buffer()) is not None:
            if frame.opcode is Opcode.CLOSE:
                self._is_closed = True
                yield self._process_close(frame)
            elif frame.opcode.iscontrol():
                yield frame
            else:
                yield self._message_decoder.process_frame(frame)

    def _process_close(self, frame: Frame) -> Frame:
        payload = frame.payload
        if not isinstance(payload, bytes | bytearray) or payload[:2] != _code.pack(_BAD_GATEWAY):
            return super()._process_close(frame)
        permitted = frame._replace(payload=_code.pack(_BAD_GATEWAY - 1) + payload[2:])
        read = super()._process_close(permitted)
        assert isinstance(read.payload, tuple)
        return read._replace(payload=(_BAD_GATEWAY, read.payload[1]))


class ServerConnection(Connection):
    """The server's side of a WebSocket connection after its handshake.

    Args:
        extensions: What was negotiated.
    """

    def __init__(self, extensions: list[Extension]) -> None:
        super().__init__(ConnectionType.SERVER)
        break_cycle(self)
        self._proto: FrameProtocol = _FrameProtocol(extensions)

    @property
    def in_frame(self) -> bool:
        """Whether a frame has begun and is not complete."""
        decoder = self._proto._frame_decoder
        return decoder.header is not None or len(decoder.buffer) > 0


def break_cycle(connection: Connection) -> None:
    """Take the generator that refers to itself out of a connection of wsproto's own, which cannot receive afterwards."""
    del connection._proto._parse_more


def connection_of(offers: str, max_message: int) -> ServerConnection:
    """Return the connection after a handshake in which these offers were answered.

    Args:
        offers: The extensions that the client offered.
        max_message: Longest message in bytes, after inflating.
    """
    agreed = negotiate(offers, max_message)
    return ServerConnection([] if agreed is None else [agreed[0]])
