"""Real peers on real relays: a browser, Node's ws, trio-websocket and websockets each follow a task to its end."""

import subprocess
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import trio
import trio.testing
from trio_websocket import open_websocket_url
from websockets.exceptions import ConnectionClosed

from relay.processes import start_child
from tests.conftest import StartRelay
from tests.harness import PATIENCE, RedisServer, eventually
from tests.integration.interop.browser import chromium, page_server
from tests.integration.interop.relays import HIJACKED, PLAIN_ASGI, UVICORN, Way, ways

HERE = Path(__file__).parent
BROWSER_PAGE = HERE / "pages" / "peer.html"
NODE = HERE / "node"

#: What is published: text beyond ASCII, and a payload for each of the three lengths that a frame's header can have.
UPDATES: list[dict[str, Any]] = [
    {"progress": 1, "note": "é☃😀"},
    {"message": "m" * 300},
    {"message": "l" * 70_000},
    {"status": "completed"},
]
SUBSCRIBED = {"type": "subscribed", "task_id": "t"}
TOLD = [SUBSCRIBED, *({"type": "task_update", "task_id": "t", "data": update} for update in UPDATES)]
Report = dict[str, Any]

TLS = Way("hypercorn-tls", "asgi")

each_way = ways(HIJACKED, UVICORN, PLAIN_ASGI, TLS)
two_ways = ways(HIJACKED, UVICORN)


def publish_all(redis_server: RedisServer) -> None:
    for update in UPDATES:
        assert redis_server.publish_task("t", **update) == 1


def follow(report: Callable[[], Report], redis_server: RedisServer) -> list[Report]:
    """Publish when the peer says that it is subscribed; returns its other reports, once it has left cleanly."""
    others: list[Report] = []
    told: list[Any] = []
    while True:
        event = report()
        match event["event"]:
            case "message":
                told.append(msgspec.json.decode(event["text"]))
                if len(told) == 1:
                    publish_all(redis_server)
            case "closed":
                assert told == TOLD
                assert event == {"event": "closed", "code": 1000, "clean": True}
                return others
            case _:
                others.append(event)


@two_ways
def test_browser(way: Way, shared_redis: RedisServer, share_relay: StartRelay, tmp_path: Path) -> None:
    relay = way.start(share_relay)
    with page_server(BROWSER_PAGE) as (page, report), chromium(tmp_path, f"{page}?relay={quote(relay.url)}"):
        opened = follow(report, shared_redis)
    # Browsers offer deflate, and both servers accept it.
    assert [event["event"] for event in opened] == ["open"]
    assert opened[0]["extensions"].startswith("permessage-deflate")
    way.check(relay)


@two_ways
@pytest.mark.parametrize("compression", ["deflate", "plain"])
@pytest.mark.usefixtures("ws_package")
def test_node_ws(compression: str, way: Way, shared_redis: RedisServer, share_relay: StartRelay) -> None:
    relay = way.start(share_relay)
    node = start_child(["node", str(NODE / "peer.js"), relay.url, compression], stdout=subprocess.PIPE)
    killer = threading.Timer(PATIENCE, node.kill)
    killer.start()
    try:
        assert node.stdout is not None
        others = follow(partial(_next_line, node.stdout), shared_redis)
        assert node.wait() == 0
    finally:
        killer.cancel()
        node.kill()
        node.wait()
        assert node.stdout is not None
        node.stdout.close()
    assert sorted(event["event"] for event in others) == ["open", "pong"]
    by_name = {event["event"]: event for event in others}
    assert by_name["pong"]["payload"] == "are you there"
    assert by_name["open"]["extensions"].startswith("permessage-deflate") == (compression == "deflate")
    way.check(relay)


def _next_line(output: Any) -> Report:
    line = output.readline()
    assert line, "node ended before the connection was closed"
    report: Report = msgspec.json.decode(line)
    return report


@two_ways
async def test_trio_websocket(way: Way, shared_redis: RedisServer, share_relay: StartRelay) -> None:
    relay = way.start(share_relay)
    with trio.fail_after(PATIENCE):
        async with open_websocket_url(relay.url) as connection:
            await connection.send_message(msgspec.json.encode({"type": "subscribe", "task_id": "t"}).decode())
            told = [msgspec.json.decode(await connection.get_message())]
            publish_all(shared_redis)
            told += [msgspec.json.decode(await connection.get_message()) for _ in UPDATES]
            await connection.ping(b"are you there")  # returns when the pong is there
            await connection.aclose(1000)
            assert connection.closed is not None
            assert connection.closed.code == 1000
    assert told == TOLD
    way.check(relay)


@each_way
@pytest.mark.parametrize("compression", ["deflate", None])
def test_websockets(compression: str | None, way: Way, shared_redis: RedisServer, share_relay: StartRelay) -> None:
    relay = way.start(share_relay)
    with relay.client(compression=compression, max_size=None, **relay.tls_options()) as client:
        client.send({"type": "subscribe", "task_id": "t"})
        told = [client.receive()]
        publish_all(shared_redis)
        told += [client.receive() for _ in UPDATES]
        assert told == TOLD
        assert client.connection.ping(b"are you there").wait(PATIENCE)
        way.check(relay)
        client.connection.close()
        assert client.connection.protocol.close_rcvd is not None
        assert client.connection.protocol.close_rcvd.code == 1000
    if way.kind != "hypercorn-tls":
        eventually(lambda: relay.metric(f'relay_connections{{transport="{way.transport}"}}') == 0)


@each_way
def test_relay_closes(way: Way, share_relay: StartRelay) -> None:
    """The closing handshake when Relay begins it: a binary message is not this protocol's."""
    relay = way.start(share_relay)
    with relay.client(**relay.tls_options()) as client:
        client.connection.send(b"\0\1\2")
        with pytest.raises(ConnectionClosed) as closed:
            client.receive()
    error = closed.value
    assert error.rcvd is not None
    assert error.rcvd.code == 1003
    assert error.sent is not None
    assert error.sent.code == 1003
    assert error.rcvd_then_sent is True


@each_way
def test_compressed_message_of_several_reads(way: Way, share_relay: StartRelay) -> None:
    relay = way.start(share_relay)
    incompressible = Random(1).randbytes(20_000).hex()
    with relay.client(compression="deflate", **relay.tls_options()) as client:
        assert [type(e).__name__ for e in client.connection.protocol.extensions] == ["PerMessageDeflate"]
        # Half of it is left after deflating: five of the relay's reads.
        client.send({"type": "subscribe", "task_id": "t", "padding": incompressible})
        assert client.receive() == SUBSCRIBED
        client.send({"type": "unsubscribe", "task_id": "t"})
        assert client.receive() == {"type": "unsubscribed", "task_id": "t"}
