"""permessage-deflate (RFC 7692) for messages of clients, which never inflates more than a message may have."""

import zlib

from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits
from wsproto.handshake import server_extensions_handshake

#: Longest Sec-WebSocket-Extensions header, in characters, that is looked at. Browsers send some 60.
MAX_OFFERS_LENGTH = 512

#: What the sender of a compressed message leaves out at its end (section 7.2.1).
_TAIL = b"\x00\x00\xff\xff"

#: Deflate streams in one message. A sender may end one with BFINAL (section 7.2.3.4); each costs a new decompressor.
_MAX_STREAMS = 16

_TOO_BIG = CloseReason.MESSAGE_TOO_BIG


class BoundedDeflate(PerMessageDeflate):
    """wsproto's extension with four differences, on the inbound side.

    Clients must compress each message by itself (client_no_context_takeover, section 7.1.1.2): a decompressor has 40 KB, four
    times what else a connection has, and is freed with the message. Inflating stops at the limit, however much the input would
    become. A stream that ends in the middle of a message, by a block with BFINAL, is followed by another one. And control
    frames pass by, which it must not transform (section 6.1): wsproto 1.3.2 takes a ping between two fragments for the end of
    the message.

    Args:
        max_message: Longest message in bytes, after inflating.
    """

    def __init__(self, max_message: int) -> None:
        super().__init__(client_no_context_takeover=True)
        self._max_message = max_message
        self._inflated = 0
        self._streams = 0

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        if opcode.iscontrol():
            return RsvBits(False, False, False)
        if opcode is not Opcode.CONTINUATION:
            self._inflated = self._streams = 0
        return super().frame_inbound_header(proto, opcode, rsv, payload_length)

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes | CloseReason:
        if not self._inbound_compressed or _is_control(proto):
            return data
        return self._inflate(bytes(data))

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | CloseReason | None:
        if not fin or _is_control(proto):
            return None
        is_compressed, self._inbound_compressed = self._inbound_compressed, None
        if not is_compressed:
            return None
        # A stream that has just ended is whole as it is.
        inflated = b"" if self._decompressor is None else self._inflate(_TAIL)
        if self.client_no_context_takeover:
            self._decompressor = None
        return inflated

    def _inflate(self, data: bytes) -> bytes | CloseReason:
        inflated = b""
        while data:
            if self._decompressor is None:
                self._streams += 1
                if self._streams > _MAX_STREAMS:
                    return CloseReason.INVALID_FRAME_PAYLOAD_DATA
                self._decompressor = zlib.decompressobj(-self.client_max_window_bits)
            decompressor = self._decompressor
            try:
                # One byte more than there is room for, so that a message of just the limit is not refused.
                piece = decompressor.decompress(data, self._max_message - self._inflated + 1)
            except zlib.error:
                return CloseReason.INVALID_FRAME_PAYLOAD_DATA
            inflated += piece
            self._inflated += len(piece)
            if self._inflated > self._max_message or decompressor.unconsumed_tail:
                return _TOO_BIG
            data = decompressor.unused_data
            if decompressor.eof:
                self._decompressor = None
        return inflated


def _is_control(decoder: FrameDecoder | FrameProtocol) -> bool:
    assert isinstance(decoder, FrameDecoder)
    return decoder.header is not None and decoder.header.opcode.iscontrol()


def negotiate(offers: str, max_message: int) -> tuple[BoundedDeflate, bytes] | None:
    """Accept the first valid offer of permessage-deflate.

    An offer that makes no sense is declined, as section 5 wants it. So are all offers of a header that no client sends, by its
    length.

    Args:
        offers: The value of Sec-WebSocket-Extensions.
        max_message: Longest message in bytes, after inflating.

    Returns:
        The extension and the header that answers the offer, or None.
    """
    if len(offers) > MAX_OFFERS_LENGTH:
        return None
    for offer in offers.split(","):
        if not offer.strip().startswith(BoundedDeflate.name):
            continue
        extension = BoundedDeflate(max_message)
        try:
            answer = server_extensions_handshake([offer.strip()], [extension])
        except ValueError:
            continue
        if answer is not None:
            return extension, answer
    return None


#: The answers to what browsers and libraries offer. A table of our own, and no cache of what strangers send.
_USUAL = {
    offers: agreed[1]
    for offers in (
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
    )
    if (agreed := negotiate(offers, 0)) is not None
}


def answer_to(offers: str) -> bytes:
    """Return the header that answers the offers of a client; empty when none of them is accepted."""
    if not offers:
        return b""
    usual = _USUAL.get(offers)
    if usual is not None:
        return usual
    agreed = negotiate(offers, 0)
    return b"" if agreed is None else agreed[1]
