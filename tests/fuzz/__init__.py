"""Mutated input for the parsers of what strangers send: it is read, or refused with an error that is meant for it.

``python -m tests.fuzz --count 1000000`` (`make fuzz`) mutates a million times for each parser.
"""

from collections.abc import Callable
from contextlib import suppress
from random import Random
from time import process_time
from typing import NamedTuple
from urllib.parse import parse_qsl

from relay.core.channels import ChannelPatterns
from relay.core.client_orders import order_message, read_order
from relay.core.errors import BadMessage
from relay.core.grants import NOTHING
from relay.core.topics import TOPICS, matches
from relay.core.updates import Position, Update
from relay.protocols.base import Subscribe
from relay.protocols.centrifuge_json import JsonCodec
from relay.protocols.centrifuge_protobuf import ProtobufCodec
from relay.protocols.centrifugo_api import METHODS, ApiError, Order, addressed, read_command
from relay.protocols.event_ids import positions_of
from relay.protocols.mercure import MercureProtocol, read_selectors
from relay.protocols.mercure_forms import TOPIC_UPDATE, position_of, read_form, read_stored, stored_form
from tests.fuzz.centrifuge import (
    JSON_FRAMES,
    PROTOBUF_COMMANDS,
    PROTOBUF_FRAMES,
    REQUESTS,
    command_parser,
    frame_parser,
    request_parser,
)

#: What mutations put in: characters that mean something to one of the parsers, and some that are none of UTF-8.
_PIECES = (
    b'%&=+;{}[]"\\,:#/?*.\n\r\0\x80\xff', b"%00", b"%ff", b"\\ud800", b"topic=", b"{+x*}", b"{?a,b}", b"null", b"1e999",
    b"[[[[", b'{"a":', b"\xe2\x80\x8b", b"9" * 20, b"true", b"false", b"{}", b"general", b"task:t", b"\x1a\0", b"\x80" * 9,
)  # fmt: skip


class Parser(NamedTuple):
    """A parser, and what its mutations begin with.

    Attributes:
        parse: Parses, and checks what it can; it may raise BadMessage and ApiError, and nothing else.
        seeds: Input that is well-formed.
    """

    parse: Callable[[bytes], object]
    seeds: tuple[bytes, ...]


def _form(data: bytes) -> None:
    update = read_form(data)
    assert read_stored(stored_form(update)) == update


_NO_CHANNELS = ChannelPatterns()
_AT = Position("5d8b85661e74", 7)


def _query(data: bytes) -> None:
    with suppress(ValueError):  # as the endpoint refuses it
        query = parse_qsl(data.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=1000)
        selectors = read_selectors(query, _NO_CHANNELS, 256)
        last_id = dict(query).get("lastEventID")
        for command in MercureProtocol(selectors, NOTHING, last_id, _AT).open():
            assert isinstance(command, Subscribe)
            payload = command.encoding.encode(Update(TOPICS, TOPIC_UPDATE, b'{"topics":["a"]}', 0.0, _AT))
            assert payload.endswith(b"\n\n") or payload == b""


def _event_id(data: bytes) -> None:
    text = data.decode("latin1")
    positions_of(text, ["task:a"])
    position_of(text)


def _stored(data: bytes) -> None:
    read_stored(data)


def _selector(data: bytes) -> None:
    selector, _, topic = data.decode("latin1").partition("\n")
    assert matches(selector, selector)
    matches(selector, topic)


def _command(data: bytes) -> None:
    method, _, body = data.decode("latin1").partition("\n")
    command = read_command(method if method in METHODS else "publish", body.encode("latin1"))
    if isinstance(command, Order):
        order = read_order(order_message(addressed(command)))
        assert order is not None
        assert order.order == addressed(command).order
    if hasattr(command, "json"):
        assert command.json.startswith(b"{")


PARSERS: dict[str, Parser] = {
    "mercure-form": Parser(_form, (b"topic=https%3A%2F%2Fx%2F7&topic=b&data=a%0Ab&private=on&id=urn%3A1&type=t&retry=10",)),
    "mercure-query": Parser(
        _query, (b"topic=a&topic=https%3A%2F%2Fx%2F%7Bid%7D&lastEventID=%235d8b85661e74:3", b"topic=task:a&match=b&topic=*")
    ),
    "mercure-stored": Parser(_stored, (b'{"topics":["a"],"data":"x","private":true,"id":"i","type":"t","retry":1}',)),
    "event-id": Parser(_event_id, (b"AQDFxWYe4P2cz9QB1RFJBawrYNDwAw==", b"#5d8b85661e74:7")),
    "topic-selector": Parser(
        _selector, (b"https://x/{a}{/b,c*}{?d,e}{+f}\nhttps://x/1/2/3?d=4&e=5", b"{a}{b}{c}{d}-{e}{;f}\naaaaaaaaaaaaaaa-b;f=1")
    ),
    "centrifugo-api": Parser(
        _command,
        (
            b'publish\n{"channel":"news","data":{"a":[1]},"idempotency_key":"k"}',
            b'broadcast\n{"channels":["a","b"],"b64data":"e30="}',
            b'history\n{"channel":"a","limit":-1,"since":{"offset":1,"epoch":"e"},"reverse":true}',
            b'subscribe\n{"user":"u","channel":"a","data":{},"b64info":"e30=","expire_at":1,"recover_since":{"offset":1}}',
            b'disconnect\n{"user":"u","whitelist":["c"],"disconnect":{"code":4000,"reason":"r"}}',
            b'refresh\n{"user":"u","client":"c","expired":true,"expire_at":9}',
            b'batch\n{"commands":[{"info":{}},{"publish":{"channel":"a","data":{}}}],"parallel":true}',
        ),
    ),
    "centrifuge-json": Parser(frame_parser(JsonCodec()), JSON_FRAMES),
    "centrifuge-protobuf": Parser(frame_parser(ProtobufCodec()), PROTOBUF_FRAMES),
    "centrifuge-command": Parser(command_parser, PROTOBUF_COMMANDS),
    "emulation": Parser(request_parser, REQUESTS),
}  # fmt: skip


def mutated(data: bytes, random: Random) -> bytes:
    """Return some input with one change, or a few."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        at = random.randrange(len(changed) + 1)
        kind = random.randrange(5)
        if kind == 0 and at < len(changed):
            changed[at] = random.randrange(256)
        elif kind == 1:
            del changed[at : at + random.randint(1, 8)]
        elif kind == 2:
            changed[at:at] = random.choice(_PIECES)
        elif kind == 3:
            changed[at:at] = changed[random.randrange(len(changed) + 1) :][: random.randint(1, 40)]
        elif at < len(changed):
            changed[at] ^= 1 << random.randrange(8)
    return bytes(changed)


def fuzz(parser: Parser, count: int, seed: int) -> tuple[int, float]:
    """Parse mutations. Most go on from one that was read, so that they come further than to the first check.

    Args:
        parser: The parser.
        count: How many.
        seed: Of the random choices.

    Returns:
        How many were read, and the longest time in seconds that one of them took.

    Raises:
        AssertionError: A parser raises what it must not; the message has the input.
    """
    read, longest, random = 0, 0.0, Random(seed)
    data = kept = random.choice(parser.seeds)
    for _ in range(count):
        if len(data) > 2000 or random.random() < 0.2:
            data = kept = random.choice(parser.seeds)
        data = mutated(data if random.random() < 0.5 else kept, random)
        started = process_time()
        try:
            parser.parse(data)
            read += 1
            kept = data
        except (BadMessage, ApiError):
            pass
        except Exception as error:
            raise AssertionError(f"{type(error).__name__} at {data!r}") from error
        longest = max(longest, process_time() - started)
    return read, longest
