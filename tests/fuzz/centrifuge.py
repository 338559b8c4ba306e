"""Frames of Centrifuge clients, and the requests of those without a WebSocket: what is mutated, and what reads it."""

from collections.abc import Callable
from typing import NamedTuple

import msgspec
from centrifuge.protocol import client_pb2

from relay.core.client_channels import Namespace, name_of_channel
from relay.core.client_orders import UnsubscribeOrder
from relay.core.closecodes import Close
from relay.protocols.base import Reply
from relay.protocols.centrifuge_commands import Codec
from relay.protocols.centrifuge_json import JsonCodec
from relay.protocols.centrifuge_protobuf import ProtobufCodec
from relay.protocols.protobuf import delimited
from relay.server.emulation import Emulation, Inbox, read_request
from tests.protocols.centrifuge_client import Client

NAMESPACES = (Namespace("task", presence=True, join_leave=True), Namespace("chat", allow_publish_for_client=True))

#: Commands that follow `connect`, in one frame each time. The first four end no session of a client without a token.
_COMMANDS = (
    '{"subscribe":{"channel":"task:t","recover":true,"offset":7,"epoch":"e","join_leave":true,"data":{"deltas":true}},"id":2}',
    '{"id":3,"history":{"channel":"task:t","limit":-1,"since":{"offset":1,"epoch":"e"},"reverse":true}}',
    '{"id":4,"publish":{"channel":"chat:1","data":{"a":["\\u00fc"]}}}',
    '{"id":5,"presence":{"channel":"task:t"}}',
    '{"id":6,"presence_stats":{"channel":"task:t"}}\n{"id":7,"rpc":{"method":"m"}}',
    '{"id":8,"subscribe":{"channel":"general","flag":2}}\n{"id":9,"unsubscribe":{"channel":"general"}}\n{}\n{"send":{"data":1}}',
    '{"id":10,"subscribe":{"channel":"task:t","token":"t","positioned":true,"recoverable":true}}',
    '{"id":11,"sub_refresh":{"channel":"task:t","token":"t"}}\n{"id":12,"refresh":{"token":"t"}}',
)
_CONNECT = '{"id":1,"connect":{"token":"t","name":"js","subs":{"general":{"recover":true,"offset":7,"epoch":"e"}}}}'

_CONNECT_OPENLY = '{"id":1,"connect":{"name":"js"}}'

#: Frames in JSON, each of a connection of its own.
JSON_FRAMES = tuple(f"{_CONNECT}\n{command}".encode() for command in _COMMANDS)


def _binary(command: str) -> bytes:
    """Return a command in Protocol Buffers, as the schema of a published client has it."""
    fields = msgspec.json.decode(command)
    for request in fields.values():
        if isinstance(request, dict) and "data" in request:
            request["data"] = msgspec.json.encode(request["data"])
    serialised: bytes = client_pb2.Command(**fields).SerializeToString()
    return serialised


#: The same frames in Protocol Buffers, and the commands of which they consist.
PROTOBUF_FRAMES = tuple(
    b"".join(delimited(_binary(command)) for command in frame.decode().split("\n")) for frame in JSON_FRAMES
)
PROTOBUF_COMMANDS = tuple(_binary(each) for command in _COMMANDS for each in command.split("\n"))

#: Requests of clients without a WebSocket.
REQUESTS = tuple(
    msgspec.json.encode({"session": "s", "node": "n", "data": frame.decode().partition("\n")[2]})
    for frame in JSON_FRAMES
)


class Seeds(NamedTuple):
    """What the frames of a session are made of.

    Attributes:
        codec: Their format.
        connect: The first one.
        commands: What the others have in them.
        frame: Makes a frame of that.
    """

    codec: Codec
    connect: bytes
    commands: tuple[bytes, ...]
    frame: Callable[[bytes], bytes]


SESSIONS: dict[str, Seeds] = {
    "json-sessions": Seeds(
        JsonCodec(), _CONNECT_OPENLY.encode(), tuple(command.encode() for command in _COMMANDS), lambda command: command
    ),
    "protobuf-sessions": Seeds(
        ProtobufCodec(), delimited(_binary(_CONNECT_OPENLY)), PROTOBUF_COMMANDS, lambda command: delimited(command)
    ),
}


def message_of(codec: Codec, data: bytes) -> str | bytes:
    """Return the message in a frame. A text that is no UTF-8 comes no further than to the reader of frames."""
    return data if codec.is_binary else data.decode("utf-8", "replace")


def frame_parser(codec: Codec) -> Callable[[bytes], object]:
    """Return what reads a frame, and plays the session of its client, which is to be left in order."""

    def parse(data: bytes) -> None:
        message = message_of(codec, data)
        codec.decode(message)
        client = Client(*NAMESPACES, codec=codec)
        client.run(client.protocol.receive(message))
        if client.closed is None and client.id:
            assert isinstance(client.protocol.heartbeat(), Reply)
        for channel in list(client.followed):  # what the session still follows, the protocol knows
            client.run(client.protocol.on_order(UnsubscribeOrder(name_of_channel(channel))))
        assert client.closed is not None or client.followed == set(), client.followed

    return parse


_parse_binary = frame_parser(ProtobufCodec())


def command_parser(data: bytes) -> None:
    """Read a command in Protocol Buffers of a client that is connected; most changes of whole frames only break the lengths."""
    _parse_binary(delimited(_binary(_CONNECT)) + delimited(data))


def request_parser(data: bytes) -> None:
    """Read a request of a client without a WebSocket, as its own relay and as another one does."""
    request = read_request(data)
    inbox, closed = Inbox(), list[Close]()
    emulation = Emulation(_nobody, 65_536)
    emulation.add(request.session, inbox, closed.append)
    emulation.deliver(request.session, request.data)
    emulation.on_message("", data)  # which has all that the message of a relay has
    emulation.remove(request.session)
    emulation.deliver(request.session, request.data)
    assert closed == []


async def _nobody(_channel: str, _message: bytes) -> int:
    return 0
