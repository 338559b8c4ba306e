"""Clients of the Centrifuge protocol as its SDKs speak it: in JSON, in Protocol Buffers, and those that recover."""

import json
from dataclasses import replace

from benchmarks.protocol import Endpoint, position_of_centrifuge
from relay.protocols.protobuf import BOOL, TEXT, UINT, Field, Table, decode, delimited, encode, read_delimited

#: What is sent and read here of the public schema.
_SUBSCRIBE = Table({
    1: Field("channel", TEXT), 3: Field("recover", BOOL), 6: Field("epoch", TEXT), 7: Field("offset", UINT),
})  # fmt: skip
_COMMAND = Table({1: Field("id", UINT), 4: Field("connect", Table({})), 5: Field("subscribe", _SUBSCRIBE)})
_REPLY = Table({6: Field("subscribe", Table({6: Field("epoch", TEXT)}))})

#: Stands between a publication's data, which is an object here, and its offset.
_OFFSET = b"}\x30"


def pack(text: str) -> bytes:
    """Return a command in Protocol Buffers."""
    return delimited(encode(_COMMAND, json.loads(text)))


def position_in_protobuf(reply: bytes, last: bytes) -> str | None:
    """Do in Protocol Buffers what `benchmarks.protocol.position_of_centrifuge` does in JSON."""
    _, found, rest = last.rpartition(_OFFSET)
    if not found:
        return None
    offset = 0
    for shift, byte in enumerate(rest):
        offset |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            break
    epoch = decode(_REPLY, read_delimited(reply, 0)[0])["subscribe"]["epoch"]
    return f',"recover":true,"epoch":"{epoch}","offset":{offset}'


def protobuf(endpoint: Endpoint) -> Endpoint:
    """Return an endpoint of the protocol in JSON as one in Protocol Buffers. The texts are the first bytes of replies."""
    (connect, _), (subscribe, _) = endpoint.steps
    return replace(
        endpoint, path=endpoint.path + "?format=protobuf", pack=pack, pongs={"\0": "{}"},
        steps=((connect, "\x08\x01\x2a"), (subscribe, "\x08\x02\x32")),
    )  # fmt: skip


def recovering(endpoint: Endpoint) -> Endpoint:
    """Return an endpoint whose clients recover, as those of the SDKs do when they return."""
    connect, (subscribe, expected) = endpoint.steps
    assert subscribe is not None
    is_json = endpoint.pack is None
    return replace(
        endpoint, steps=(connect, (subscribe.removesuffix("}}") + "{position}}}", expected)), no_position="",
        find_position=position_of_centrifuge if is_json else position_in_protobuf, has_updates_in_reply=True,
        refusal='"error"' if is_json else "\x08\x02\x12", recovered='"recovered":true' if is_json else "\x40\x01",
    )  # fmt: skip


CENTRIFUGE = Endpoint(
    "/connection/websocket",
    (('{"id":1,"connect":{}}', '"client"'), ('{"id":2,"subscribe":{"channel":"task:{task}"}}', '"subscribe"')),
    pongs={"{}": "{}"},
)
CENTRIFUGE_PROTOBUF = protobuf(CENTRIFUGE)
