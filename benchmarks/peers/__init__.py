"""The servers that Relay is compared with. Each runs when what it needs is installed, and says what to install when not."""

from functools import partial

import msgspec

from benchmarks.peers.base import Peer
from benchmarks.protocol import Endpoint, Publishing
from benchmarks.wire import Update, resp

#: Refusals of an HTTP API.
HTTP_ERRORS = (b"HTTP/1.1 4", b"HTTP/1.1 5")


def http_post(path: str, body: bytes, content_type: str = "application/json", headers: str = "") -> bytes:
    """Return a request; each of the other headers ends with a line break."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: peer\r\n{headers}Content-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def publish_to_nchan(update: Update) -> bytes:
    """One HTTP request for each update, pipelined on one connection."""
    return http_post(f"/pub?id={update.channel}", update.payload)


def publish_to_centrifugo(update: Update) -> bytes:
    """One request of its HTTP API for each update, pipelined on one connection."""
    return http_post("/api/publish", b'{"channel":"%b","data":%b}' % (update.channel.encode(), update.payload))


def publish_to_nats(update: Update) -> bytes:
    """PUB, which has no reply of its own; a PING is answered when all before it was taken."""
    return b"PUB task.%b %d\r\n%b\r\n" % (update.channel.encode(), len(update.payload), update.payload)


def send_to_django_group(update: Update) -> bytes:
    """PUBLISH as `group_send` of Django's pub/sub layer does."""
    message = msgspec.msgpack.encode({"type": "task.update", "text": update.payload.decode()})
    return resp("PUBLISH", f"asgi__group__{update.channel}", message)


def emit_from_python(update: Update) -> bytes:
    """PUBLISH as a write-only `RedisManager` of python-socketio does."""
    message = {
        "method": "emit", "event": "task_update", "data": msgspec.json.decode(update.payload), "binary": False,
        "namespace": "/", "room": update.channel, "skip_sid": None, "callback": None, "host_id": "benchmarks",
    }  # fmt: skip
    return resp("PUBLISH", "socketio", msgspec.json.encode(message))


def emit_from_node(update: Update) -> bytes:
    """PUBLISH as `@socket.io/redis-emitter` does: sender, packet, options."""
    packet = {"type": 2, "data": ["task_update", msgspec.json.decode(update.payload)], "nsp": "/"}
    options = {"rooms": [update.channel], "except": [], "flags": {}}
    return resp("PUBLISH", f"socket.io#/#{update.channel}#", msgspec.msgpack.encode(["benchmarks", packet, options]))


#: Engine.IO opens with 0, Socket.IO with 40; 42 is an event. A 2 is a ping, a 3 its pong.
SOCKET_IO = Endpoint(
    "/socket.io/?EIO=4&transport=websocket",
    ((None, '"sid"'), ("40", '"sid"'), ('42["subscribe","{task}"]', '"subscribed"')),
    pongs={"2": "3"},
)
_NATS_CONNECT = 'CONNECT {"verbose":false,"pedantic":false,"lang":"benchmarks","version":"1","protocol":1}\r\n'
_NATS = Endpoint(
    "/",
    ((None, "INFO"), (f"{_NATS_CONNECT}PING\r\n", "PONG"), ("SUB task.{task} 1\r\nPING\r\n", "PONG")),
    framing="stream",
)
#: Replies and pushes are objects on lines of their own, several to a message where they come together.
CENTRIFUGO = Endpoint(
    "/connection/websocket",
    (('{"id":1,"connect":{}}', '"connect"'), ('{"id":2,"subscribe":{"channel":"{task}"}}', '"subscribe"')),
    framing="stream",
    pongs={"{}": "{}"},
)

_REDIS = {"BENCH_REDIS_URL": "$redis_url"}
#: On uvloop, without logs and without compression, which no client here offers.
_UVICORN = (
    "$python -m uvicorn benchmarks.peers.programs.{}_app:app --port $port --log-level warning "
    "--loop uvloop --http httptools --ws websockets-sansio --backlog 4096 {}"
)
_UVICORN_PACKAGES = ("uvicorn", "uvloop", "httptools", "websockets")

#: A library and a page of our own: it listens to one Redis pattern, has a set of clients for each task, speaks Relay's
#: `subscribe` and sends each message as it comes. None bounds what waits for a client.
_Program = partial(Peer, subscribes_at_start=True, install="pip install 'trio-relay[bench]'")
_PROGRAM = "$python -m benchmarks.peers.programs.{}_program $port $redis_url"
_App = partial(Peer, environ=_REDIS)
_Node = partial(
    Peer, language="node", programs=("node --version",), subscribes_at_start=True,
    install="Node, and npm ci --prefix benchmarks/peers/node",
)  # fmt: skip

PEERS: tuple[Peer, ...] = (
    _Program("picows", "picows on uvloop", _PROGRAM.format("picows"), packages=("picows", "uvloop")),
    _Program("websockets", "websockets broadcast() on uvloop", _PROGRAM.format("websockets"),
             packages=("websockets", "uvloop")),
    _Program("websockets-trio", "websockets.trio", _PROGRAM.format("websockets_trio"),
             packages=("websockets", "trio-asyncio")),
    _Program("trio-websocket", "trio-websocket", _PROGRAM.format("trio_websocket"),
             packages=("trio-websocket", "trio-asyncio")),
    _App("starlette", "uvicorn with Starlette", _UVICORN.format("starlette", ""), subscribes_at_start=True,
         packages=("starlette", *_UVICORN_PACKAGES)),
    _App("litestar", "Litestar channels under uvicorn", _UVICORN.format("litestar", ""),
         packages=("litestar", *_UVICORN_PACKAGES)),
    _App("django-channels", "Django channels under uvicorn", _UVICORN.format("django", "--lifespan off"),
         packages=("django", "channels", "channels-redis", *_UVICORN_PACKAGES),
         publishing=Publishing(send_to_django_group)),
    _App("python-socketio", "python-socketio under uvicorn", _UVICORN.format("socketio", ""), endpoint=SOCKET_IO,
         packages=("python-socketio", *_UVICORN_PACKAGES), publishing=Publishing(emit_from_python)),
    _Node("ws", "Node ws", "node $peers/node/ws.js $port $redis_url", npm=("ws", "ioredis")),
    _Node("socket.io", "socket.io with its Redis adapter", "node $peers/node/socketio.js $port $redis_url",
          npm=("socket.io", "@socket.io/redis-adapter", "ioredis"), endpoint=SOCKET_IO,
          publishing=Publishing(emit_from_node)),
    Peer("nchan", "nginx with Nchan", "nginx -e stderr -p $directory -c $config", language="c", redis=False,
         programs=("nginx -v",), files=("/usr/lib/nginx/modules/ngx_nchan_module.so",), config="nchan.conf",
         install="apt-get install libnginx-mod-nchan", endpoint=Endpoint("/sub?id={task}"),
         publishing=Publishing(publish_to_nchan, ack=b"HTTP/1.1 20", refusals=HTTP_ERRORS)),
    Peer("nats", "NATS over WebSocket", "nats-server -c $config", language="go", redis=False, config="nats.conf",
         programs=("nats-server --version",), install="apt-get install nats-server", endpoint=_NATS, batches_writes=True,
         has_publish_port=True,
         publishing=Publishing(publish_to_nats, b"PONG\r\n", (b"-ERR",), _NATS_CONNECT.encode(), flush=b"PING\r\n")),
    Peer("centrifugo", "Centrifugo", "centrifugo --config $config", language="go", redis=False, config="centrifugo.json",
         programs=("centrifugo version",), install="go install github.com/centrifugal/centrifugo/v6@latest",
         endpoint=CENTRIFUGO, batches_writes=True,
         publishing=Publishing(publish_to_centrifugo, b"HTTP/1.1 200", (*HTTP_ERRORS, b'"error"'))),
)  # fmt: skip
