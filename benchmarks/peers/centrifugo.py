"""Centrifugo with its in-memory engine: publishers POST to its HTTP API, no Redis is between."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.doors import Door
from benchmarks.feeds import Feed
from benchmarks.peers.base import Peer, everyone_is_a_task
from benchmarks.servers import Running, ServerProcess, accepts
from benchmarks.wire import Form, Template
from relay.broker.embedded import free_port

#: Replies and pushes are objects on lines of their own, several to a message where they come together.
_DOOR = Door(
    "/connection/websocket",
    (('{"id":1,"connect":{}}', '"connect"'), ('{"id":2,"subscribe":{"channel":"{task}"}}', '"subscribe"')),
    count="lines",
    pongs={"{}": "{}"},
)


class ApiPublish(Feed):
    """A request to `/api/publish` for each update, pipelined on one connection."""

    answer_mark = b"HTTP/1.1 200"
    refusal_marks = (b"HTTP/1.1 4", b"HTTP/1.1 5", b'"error"')

    def template(self, form: Form) -> Template:
        body = b'{"channel":"%b","data":%b}' % (form.channel.encode(), form.payload)
        head = (
            "POST /api/publish HTTP/1.1\r\nHost: centrifugo\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return Template(head.encode() + body)


def _configuration(port: int) -> dict[str, Any]:
    return {
        "http_server": {"address": "127.0.0.1", "port": port},
        "client": {"insecure": True},
        "http_api": {"insecure": True},
        "channel": {"without_namespace": {"allow_subscribe_for_client": True, "allow_subscribe_for_anonymous": True}},
        "log": {"level": "error"},
        "usage_stats": {"enabled": False},
    }


class Centrifugo(Peer):
    """Centrifugo 6, when its binary is on the PATH."""

    name = "centrifugo"
    title = "Centrifugo"
    language = "go"
    binaries = ("centrifugo",)

    def start(self, directory: Path) -> Running:
        directory.mkdir(parents=True, exist_ok=True)
        port = free_port()
        configuration = directory / "config.json"
        configuration.write_text(json.dumps(_configuration(port)))
        command = ["centrifugo", "--config", str(configuration)]
        with ExitStack() as stack:
            server = stack.enter_context(ServerProcess(self.name, directory, command))
            server.wait_until(lambda: accepts(port))
            return Running(
                self.name, port, _DOOR, everyone_is_a_task(_DOOR), ApiPublish, port, [server], stack=stack.pop_all()
            )  # fmt: skip
