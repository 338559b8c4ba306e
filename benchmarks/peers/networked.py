"""The servers whose official clients are put behind networks that fail, set up for recovery as their documentation says."""

import json
from dataclasses import replace
from functools import partial
from urllib.parse import quote

from benchmarks.peers import CENTRIFUGO, HTTP_ERRORS, http_post, publish_to_centrifugo
from benchmarks.peers.base import Peer
from benchmarks.peers.centrifuge import protobuf, recovering
from benchmarks.peers.relay import RELAY, RELAY_DURABLE
from benchmarks.protocol import Publishing
from benchmarks.wire import Update, signed

_MERCURE_KEY = "the key of the benchmarks, of 32 bytes and more"


def broadcast_to_anycable(update: Update) -> bytes:
    """One request to AnyCable's HTTP broadcaster for each update, pipelined on one connection."""
    return http_post("/_broadcast", json.dumps({"stream": update.channel, "data": update.payload.decode()}).encode())


def publish_to_mercure(update: Update) -> bytes:
    """One request to the hub for each update, pipelined on one connection."""
    token = signed({"mercure": {"publish": ["*"]}}, _MERCURE_KEY)
    data = quote(update.payload, safe="@#")
    return http_post(
        "/.well-known/mercure", f"topic={update.channel}&data={data}".encode(), "application/x-www-form-urlencoded",
        f"Authorization: Bearer {token}\r\n",
    )  # fmt: skip


_Node = partial(Peer, language="node", programs=("node --version",), subscribes_at_start=True,
                install="Node, and npm ci --prefix benchmarks/peers/node")  # fmt: skip
_NODE_PROGRAM = "node $peers/node/{} $port $redis_url {}"
_ANYCABLE = (
    "anycable-go --host 127.0.0.1 --port $port --public --broker memory --broadcast_adapter http "
    "--http_broadcast_port $publish_port --history_limit 1000 --log_level error"
)

#: Answers from memory, whatever was missed: what it does not reach is the harness' own limit.
LIMIT = _Node("harness", "the harness' own limit", _NODE_PROGRAM.format("memory_server.mjs", ""),
              npm=("ws", "ioredis"), library="memory")  # fmt: skip

NETWORKED_RELAY = replace(RELAY_DURABLE, name="relay", title="Relay", npm=("ws",), library="relay")

#: Closes all clients at once when it is stopped, as if it had crashed.
ABRUPT_RELAY = replace(NETWORKED_RELAY, environ={**NETWORKED_RELAY.environ, "RELAY_DRAIN_SECONDS": "0"})
NETWORKED_RELAY_PLAIN = replace(RELAY, name="relay-plain", title="Relay, plain PUBLISH", npm=("ws",), library="relay")

_CENTRIFUGO = Peer(
    "centrifugo", "Centrifugo with recovery", "centrifugo --config $config", language="go", redis=False,
    config="centrifugo_recovery.json", programs=("centrifugo version",), npm=("centrifuge", "ws"),
    install="go install github.com/centrifugal/centrifugo/v6@latest, and npm ci --prefix benchmarks/peers/node",
    publishing=Publishing(publish_to_centrifugo, b"HTTP/1.1 200", (*HTTP_ERRORS, b'"error"')), library="centrifugo",
)  # fmt: skip

#: Its clients recover over the same protocol as Relay's.
CENTRIFUGO_RECOVERY = replace(_CENTRIFUGO, endpoint=recovering(CENTRIFUGO), npm=(), recovers=True, batches_writes=True)
CENTRIFUGO_PROTOBUF = replace(
    CENTRIFUGO_RECOVERY, name="centrifugo-protobuf", title="Centrifugo with recovery, Protocol Buffers",
    endpoint=recovering(protobuf(CENTRIFUGO)),
)  # fmt: skip

#: One process each.
SINGLE: tuple[Peer, ...] = (
    _CENTRIFUGO,
    Peer(
        "anycable", "AnyCable with its memory broker", _ANYCABLE, language="go", redis=False, has_publish_port=True,
        programs=("anycable-go -v",), npm=("@anycable/core", "ws"), library="anycable",
        install="build anycable-go from its Go module, and npm ci --prefix benchmarks/peers/node",
        publishing=Publishing(broadcast_to_anycable, b"HTTP/1.1 201", HTTP_ERRORS),
    ),
    _Node("socket.io-recovery", "socket.io with connection state recovery", _NODE_PROGRAM.format("socketio_recovery.js", ""),
          npm=("socket.io", "socket.io-client", "@socket.io/redis-streams-adapter", "ioredis"), library="socketio"),
    Peer(
        "mercure", "Mercure with its history", "mercure --addr 127.0.0.1:$port --allow-anonymous "
        f"--jwt-key '{_MERCURE_KEY}' --transport-url bolt://$directory/mercure.db --write-timeout 0s",
        language="go", redis=False, programs=("mercure --version",), npm=("eventsource",), library="mercure",
        install="build cmd/mercure from the Go module of Mercure 0.20, and npm ci --prefix benchmarks/peers/node",
        publishing=Publishing(publish_to_mercure, b"HTTP/1.1 200", HTTP_ERRORS),
    ),
)  # fmt: skip

#: Two processes, of which one or the other may be away.
PAIRS: tuple[Peer, ...] = (
    replace(
        _CENTRIFUGO, name="centrifugo-x2", title="Centrifugo with its Redis engine, two nodes", redis=True,
        config="centrifugo_redis.json", processes=3, spare_processes=1,
    ),
    _Node("socket.io-x2", "socket.io with its Redis streams adapter, two servers", processes=2,
          command=_NODE_PROGRAM.format("socketio_recovery.js", "streams"), library="socketio",
          npm=("socket.io", "socket.io-client", "@socket.io/redis-streams-adapter", "ioredis")),
)  # fmt: skip
NETWORKED_RELAY_PAIR = replace(NETWORKED_RELAY, name="relay-x2", title="Relay, two processes", processes=2)

#: The most connects in a second that each of the pair takes, and the same pair without a limit.
CONNECT_RATE = 500
_PACED = {"RELAY_GRACEFUL_TIMEOUT": "30", "RELAY_DRAIN_SECONDS": "12", "RELAY_CONNECT_RATE": str(CONNECT_RATE)}
PACED_RELAYS = (
    replace(NETWORKED_RELAY_PAIR, name="relay-paced", title=f"Relay, {CONNECT_RATE} connects/s, drained over 12 s",
            environ={**NETWORKED_RELAY_PAIR.environ, **_PACED}),
    replace(NETWORKED_RELAY_PAIR, name="relay-abrupt", title="Relay, no limit, drained at once",
            environ={**NETWORKED_RELAY_PAIR.environ, "RELAY_DRAIN_SECONDS": "0"}),
)  # fmt: skip
