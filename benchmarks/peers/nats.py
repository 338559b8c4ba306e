"""NATS with its WebSocket listener: publishers speak its text protocol over TCP, clients the same in WebSocket frames."""

from contextlib import ExitStack
from pathlib import Path

from benchmarks.doors import Door
from benchmarks.feeds import Feed
from benchmarks.peers.base import Peer, everyone_is_a_task
from benchmarks.servers import Running, ServerProcess, accepts
from benchmarks.wire import Form, Template
from relay.broker.embedded import free_port

_CONFIGURATION = """\
listen: "127.0.0.1:{port}"
websocket {{ listen: "127.0.0.1:{websocket_port}", no_tls: true, compression: false }}
max_connections: 19000
ping_interval: "30m"
"""

_CONNECT = 'CONNECT {"verbose":false,"pedantic":false,"lang":"benchmarks","version":"1","protocol":1}\r\n'


class Pub(Feed):
    """PUB, which has no answer of its own; a PING is answered when all before it was taken."""

    answer_mark = b"PONG\r\n"
    refusal_marks = (b"-ERR",)
    greeting = _CONNECT.encode()
    flush = b"PING\r\n"

    def template(self, form: Form) -> Template:
        return Template(b"PUB task.%b %d\r\n%b\r\n" % (form.channel.encode(), len(form.payload), form.payload))


class Nats(Peer):
    """Debian's nats-server."""

    name = "nats"
    title = "NATS over WebSocket"
    language = "go"
    binaries = ("nats-server",)

    def start(self, directory: Path) -> Running:
        directory.mkdir(parents=True, exist_ok=True)
        port, websocket_port = free_port(), free_port()
        configuration = directory / "nats.conf"
        configuration.write_text(_CONFIGURATION.format(port=port, websocket_port=websocket_port))
        door = Door(
            "/",
            ((None, "INFO"), (_CONNECT + "PING\r\n", "PONG"), ("SUB task.{task} 1\r\nPING\r\n", "PONG")),
            count="stream",
        )
        with ExitStack() as stack:
            server = stack.enter_context(ServerProcess(self.name, directory, ["nats-server", "-c", str(configuration)]))
            server.wait_until(lambda: accepts(port) and accepts(websocket_port))
            return Running(
                self.name, websocket_port, door, everyone_is_a_task(door), Pub, port, [server], stack=stack.pop_all()
            )  # fmt: skip
