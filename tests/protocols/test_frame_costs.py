"""What most clients send is read without the parser that is there for what is rare."""

import pytest

from relay.protocols.connection import ServerConnection
from relay.protocols.frames import FrameReader, Received
from tests.harness import masked_frame, masked_text

FIN, TEXT, BINARY = 0x80, 1, 2


def test_pongs_cost_no_parser_of_their_own() -> None:
    """The answer to each heartbeat is read as it comes, or the parser for what is rare would be kept for every client."""
    made: list[ServerConnection] = []

    def make() -> ServerConnection:
        made.append(ServerConnection([]))
        return made[-1]

    reader = FrameReader(1000, make)
    pong, text = masked_frame(0x8A, b"beat"), masked_text(b"hello")
    assert list(reader.receive(pong + text + pong)) == [Received("hello")]
    assert (reader.frames, made) == (3, [])
    assert list(reader.receive(pong[:5])) == []  # in two pieces
    assert list(reader.receive(pong[5:] + text)) == [Received("hello")]
    assert (reader.frames, len(made)) == (5, 1)


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 1000, 65535])
@pytest.mark.parametrize("kind", [TEXT, BINARY])
def test_a_message_in_one_frame_costs_no_parser_of_its_own(kind: int, length: int) -> None:
    def refuse() -> ServerConnection:
        raise AssertionError("wsproto is not needed")

    target = FrameReader(1 << 20, refuse)
    payload = bytes(33 + number % 90 for number in range(length))
    whole = masked_frame(FIN | kind, payload)
    message = payload if kind == BINARY else payload.decode()
    assert list(target.receive(whole + whole)) == [Received(message)] * 2
    assert target.frames == 2
