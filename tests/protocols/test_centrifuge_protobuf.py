"""The Centrifuge protocol in Protocol Buffers, byte for byte; a published client that decodes it is in the interop tests."""

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.errors import BadMessage
from relay.core.recovery import Snapshot
from relay.core.shared_updates import SharedUpdates
from relay.core.updates import Position, Update
from relay.protocols.centrifuge_protobuf import ProtobufCodec
from relay.protocols.protobuf import BOOL, BYTES, INT, TEXT, UINT, Field, Table, decode, delimited, encode, varint
from tests.protocols.centrifuge_client import Client

CODEC = ProtobufCodec()
AT_7 = Position("e", 7)
UPDATE = Update("task:t", "task_update", b'{"n":1}', 0.0, Position("e", 300))

INNER = Table({1: Field("text", TEXT), 2: Field("number", INT)})
TABLE = Table(
    {
        1: Field("unsigned", UINT),
        2: Field("signed", INT),
        3: Field("flag", BOOL),
        4: Field("text", TEXT),
        5: Field("data", BYTES),
        6: Field("inner", INNER),
        7: Field("named", INNER, "map"),
        200: Field("far", UINT),
    }
)
_INNER = st.fixed_dictionaries({"text": st.text(min_size=1), "number": st.integers(1, 2**62)})
_MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "unsigned": st.integers(1, 2**64 - 1),
        "signed": st.integers(-(2**63), -1),
        "flag": st.just(True),
        "text": st.text(min_size=1),
        "inner": _INNER,
        "named": st.dictionaries(st.text(min_size=1), _INNER, min_size=1),
        "far": st.integers(1, 300),
    },
)


@given(_MESSAGES)
def test_what_is_encoded_is_decoded(message: dict[str, Any]) -> None:
    assert decode(TABLE, encode(TABLE, message)) == message


def test_bytes_are_kept_as_they_are_and_unknown_fields_are_skipped() -> None:
    data = encode(TABLE, {"data": msgspec.Raw(b"\xff")})
    unknown = b"\x48\x05" + b"\x52\x02ab" + b"\x59" + b"8" * 8 + b"\x65" + b"4" * 4
    assert bytes(decode(TABLE, unknown + data)["data"]) == b"\xff"


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",  # no value
        b"\x08" + b"\x80" * 11,  # a number without an end
        b"\x22\x05ab",  # cut off
        b"\x22\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # far longer than the message
        b"\x0a\x01a",  # a text where a number is due
        b"\x20\x01",  # a number where a text is due
        b"\x22\x01\xff",  # no UTF-8
        b"\x0b",  # a form of before
        b"\x59\x01",  # eight bytes, of which one is there
    ],
)
def test_what_is_malformed_is_refused(data: bytes) -> None:
    with pytest.raises(BadMessage):
        decode(TABLE, data)


def test_messages_within_messages_have_an_end() -> None:
    table = Table()
    table[1] = Field("inner", table)
    data = b""
    for _ in range(100):
        data = b"\x0a" + delimited(data)
    with pytest.raises(BadMessage):
        decode(table, data)


def test_commands() -> None:
    connect = b"\x08\x01" + b"\x22" + delimited(b"\x0a\x01t")
    subscribe = b"\x08\x02" + b"\x2a" + delimited(b"\x0a\x06task:t" + b"\x18\x01" + b"\x32\x01e" + b"\x38\x07")
    first, second, pong = CODEC.decode(delimited(connect) + delimited(subscribe) + b"\0")
    assert first.connect is not None
    assert (first.id, first.connect.token) == (1, "t")
    assert second.subscribe is not None
    asked = second.subscribe
    assert (second.id, asked.channel, asked.recover, asked.epoch, asked.offset) == (2, "task:t", True, "e", 7)
    assert pong.id == 0


def test_pushes() -> None:
    own, given = CODEC.encodings
    publication = b"\x22\x07" + b'{"n":1}' + b"\x30\xac\x02"
    push = b"\x12\x06task:t" + b"\x22" + delimited(publication)
    assert own.encode(UPDATE) == given.encode(UPDATE) == delimited(b"\x22" + delimited(push))
    (reset,) = own.reset("task:t", Snapshot(AT_7, None, None))
    ended = b"\x10" + varint(2500) + b"\x1a" + delimited(b"insufficient state")
    assert reset == delimited(b"\x22" + delimited(b"\x12\x06task:t" + b"\x3a" + delimited(ended)))
    # What no relay has written ends no client's connection.
    assert own.encode(Update("members:task:t", "join", b"not JSON", 0.0)) == delimited(
        b"\x22" + delimited(b"\x12\x06task:t" + b"\x2a\x02\x0a\x00")
    )


def test_replies_keep_empty_results() -> None:
    assert CODEC.reply(5, "unsubscribe", {}) == delimited(b"\x08\x05" + b"\x3a\x00")
    assert CODEC.error(5, 109, "token expired", False) == delimited(
        b"\x08\x05" + b"\x12" + delimited(b"\x08\x6d" + b"\x12" + delimited(b"token expired"))
    )


@given(st.binary(max_size=200) | st.lists(st.binary(max_size=40)).map(lambda parts: b"".join(map(delimited, parts))))
@settings(max_examples=100, deadline=None)
def test_whatever_comes_is_commands_or_refused(data: bytes) -> None:
    with suppress(BadMessage):
        CODEC.decode(data)


def test_data_that_is_no_utf_8_ends_no_session() -> None:
    client = Client(codec=CODEC)
    client.run(client.protocol.receive(delimited(b"\x08\x01" + b"\x22\x00")))
    data = b'{"deltas":"\xff"}'
    subscribe = b"\x08\x02" + b"\x2a" + delimited(b"\x0a\x06task:t" + b"\x42" + delimited(data))
    client.run(client.protocol.receive(delimited(subscribe)))
    assert client.closed is None
    assert client.followed == {"task:t"}


def test_publications_that_clients_share_are_the_same_bytes_in_each_reply() -> None:
    missed = [
        Update("task:t", "task_update", b'{"n":%d}' % offset, 0.0, Position("e", offset)) for offset in (300, 301)
    ]
    codec = ProtobufCodec()
    alone = codec.reply(7, "subscribe", {"publications": codec.publications(missed, whole_values=True)})
    shared = SharedUpdates(missed)
    publications = codec.publications(shared, whole_values=True)
    assert codec.publications(shared, whole_values=True) is publications
    assert codec.reply(7, "subscribe", {"publications": publications}) == alone
    # The same publications have another number in the reply to `history`.
    history = codec.reply(7, "history", {"publications": publications})
    assert history == codec.reply(7, "history", {"publications": codec.publications(missed, whole_values=True)})
    assert history != alone
