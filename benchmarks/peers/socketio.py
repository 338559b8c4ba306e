"""Socket.IO: the Python server and the Node server with its Redis adapter, and what their emitters publish."""

from pathlib import Path
from typing import Any

import msgspec

from benchmarks.doors import Door
from benchmarks.feeds import Feed
from benchmarks.peers.base import Peer, run_with_redis
from benchmarks.peers.node import command, missing_modules
from benchmarks.peers.plain import uvicorn
from benchmarks.servers import Running, accepts
from benchmarks.wire import Form, Template, resp

#: Engine.IO opens with 0, Socket.IO with 40; 42 is an event. A 2 is a ping, a 3 its pong.
DOOR = Door(
    "/socket.io/?EIO=4&transport=websocket",
    ((None, '"sid"'), ("40", '"sid"'), ('42["subscribe","{task}"]', '"subscribed"')),
    pongs={"2": "3"},
)

_EVENT = "task_update"


def _payload(form: Form) -> Any:
    """The update as an object: the servers encode it again."""
    return msgspec.json.decode(form.payload)


class PythonEmit(Feed):
    """What a write-only `RedisManager` of python-socketio publishes."""

    def template(self, form: Form) -> Template:
        message = {
            "method": "emit", "event": _EVENT, "data": _payload(form), "binary": False, "namespace": "/",
            "room": form.channel, "skip_sid": None, "callback": None, "host_id": "benchmarks",
        }  # fmt: skip
        return Template(resp("PUBLISH", "socketio", msgspec.json.encode(message)))


class NodeEmit(Feed):
    """What `@socket.io/redis-emitter` publishes: sender, packet, options."""

    def template(self, form: Form) -> Template:
        packet = {"type": 2, "data": [_EVENT, _payload(form)], "nsp": "/"}
        options = {"rooms": [form.channel], "except": [], "flags": {}}
        message = msgspec.msgpack.encode(["benchmarks", packet, options])
        return Template(resp("PUBLISH", f"socket.io#/#{form.channel}#", message))


class PythonSocketIo(Peer):
    """python-socketio under uvicorn."""

    name = "python-socketio"
    title = "python-socketio under uvicorn"
    packages = ("socketio", "uvicorn", "uvloop", "httptools", "websockets")

    def start(self, directory: Path) -> Running:
        return run_with_redis(
            self,
            directory,
            lambda port, _: uvicorn("benchmarks.peers.programs.socketio_app:app", port),
            ready=lambda port, _: accepts(port),
            door=DOOR,
            feed=PythonEmit,
            environ=lambda _, valkey: {"BENCH_REDIS_URL": valkey.url},
        )


class SocketIo(Peer):
    """socket.io on Node with its Redis adapter."""

    name = "socket.io"
    title = "socket.io with its Redis adapter"
    language = "node"
    binaries = ("node",)

    def missing(self) -> str | None:
        return super().missing() or missing_modules("socket.io", "@socket.io/redis-adapter", "ioredis")

    def start(self, directory: Path) -> Running:
        return run_with_redis(
            self,
            directory,
            lambda port, valkey: command("socketio.js", port, valkey.url),
            ready=lambda port, valkey: accepts(port) and valkey.has_listener(),
            door=DOOR,
            feed=NodeEmit,
        )
