"""The published SDKs of Centrifugo, unmodified, on two relays: one client is on the first, another on the second."""

import asyncio
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from centrifuge import (
    Client,
    ClientEventHandler,
    ConnectedContext,
    JoinContext,
    LeaveContext,
    PublicationContext,
    ServerPublicationContext,
    SubscribedContext,
    SubscriptionEventHandler,
)

from tests.faults.proxy import ProxyThread
from tests.harness import PATIENCE, RedisServer, RelayServer
from tests.integration.interop.browser import chromium, page_server
from tests.integration.interop.conftest import NODE

SECRET = "a secret of the tests, long enough"
NAMESPACES = '[{"name":"task","presence":true,"join_leave":true},{"name":"chat","allow_publish_for_client":true}]'


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), "--save", "") as server:
        yield server


@pytest.fixture(scope="module")
def relays(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RelayServer]]:
    options: dict[str, Any] = {"jwt_secret": SECRET, "channel_namespaces": NAMESPACES, "heartbeat_interval": 1}
    with (
        RelayServer(tmp_path_factory.mktemp("relay"), redis_server.url, **options) as first,
        RelayServer(tmp_path_factory.mktemp("relay"), redis_server.url, hijack_sockets=False, **options) as second,
    ):
        yield [first, second]


def token(user: str, seconds: float = 300, **claims: Any) -> str:
    claims = {"sub": user, "exp": time.time() + seconds, "relay": {"watch": {"all": True}}, **claims}
    return jwt.encode(claims, SECRET, "HS256")


def endpoint(relay: RelayServer, path: str = "websocket") -> str:
    return f"{'ws' if path == 'websocket' else 'http'}://127.0.0.1:{relay.port}/connection/{path}"


class Events(SubscriptionEventHandler):
    """What a subscription of the Python SDK has seen."""

    def __init__(self) -> None:
        self.seen: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()

    async def on_subscribed(self, ctx: SubscribedContext) -> None:
        self.seen.put_nowait(("subscribed", ctx.was_recovering, ctx.recovered))

    async def on_publication(self, ctx: PublicationContext) -> None:
        data = ctx.pub.data
        self.seen.put_nowait(("publication", json.loads(data) if isinstance(data, bytes) else data, ctx.pub.offset))

    async def on_join(self, ctx: JoinContext) -> None:
        self.seen.put_nowait(("join", ctx.info.user))

    async def on_leave(self, ctx: LeaveContext) -> None:
        self.seen.put_nowait(("leave", ctx.info.user))

    async def next(self) -> tuple[Any, ...]:
        return await asyncio.wait_for(self.seen.get(), PATIENCE)


class Connection(ClientEventHandler):
    """What a client of the Python SDK has seen of its connection, and of the channels that it is given."""

    def __init__(self) -> None:
        self.seen: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()

    async def on_connected(self, ctx: ConnectedContext) -> None:
        self.seen.put_nowait(("connected",))

    async def on_publication(self, ctx: ServerPublicationContext) -> None:
        self.seen.put_nowait(("given", ctx.channel, ctx.pub.offset))

    async def next(self) -> tuple[Any, ...]:
        return await asyncio.wait_for(self.seen.get(), PATIENCE)


async def connect(
    relay: RelayServer, user: str, task_id: str, *, protobuf: bool = False, **claims: Any
) -> tuple[Client, Connection, Events]:
    connection, events = Connection(), Events()
    address = endpoint(relay) + ("?format=protobuf" if protobuf else "")
    client = Client(address, events=connection, token=token(user, **claims), use_protobuf=protobuf)
    await client.connect()
    await client.new_subscription(f"task:{task_id}", events, join_leave=True).subscribe()
    assert await connection.next() == ("connected",)
    return client, connection, events


async def leave(client: Client) -> None:
    """Disconnect, and wait until the socket is closed."""
    connection = client._conn
    await client.disconnect()
    assert connection is not None
    await connection.wait_closed()


@pytest.mark.parametrize("protobuf", [False, True], ids=["json", "protobuf"])
def test_python_recovers_what_it_missed(redis_server: RedisServer, relays: list[RelayServer], protobuf: bool) -> None:
    task_id = f"cut-{protobuf}"
    redis_server.publish_task(task_id, progress=1)

    async def main() -> None:
        client, connection, events = await connect(relays[0], "u", task_id, protobuf=protobuf, channels=["general"])
        assert await events.next() == ("subscribed", False, False)
        assert (await events.next())[1:] == ({"progress": 1}, 1)
        assert await events.next() == ("join", "u")
        redis_server.publish_task(task_id, progress=2)
        assert (await events.next())[1:] == ({"progress": 2}, 2)
        redis_server.publish_general(news=1)
        given = await connection.next()
        assert given[:2] == ("given", "general")
        assert client._conn is not None
        client._conn.transport.abort()
        redis_server.publish_task(task_id, progress=3)
        redis_server.publish_general(news=2)
        redis_server.publish_task(task_id, progress=4)
        seen = [await events.next() for _ in range(4)]
        seen = [each for each in seen if each[0] not in ("join", "leave")]
        assert seen[:1] == [("subscribed", True, True)]
        while len(seen) < 3:
            event = await events.next()
            seen += [event] if event[0] == "publication" else []
        assert [each[2] for each in seen[1:]] == [3, 4]
        after = [await connection.next(), await connection.next()]
        assert sorted(after, key=len) == [("connected",), ("given", "general", given[2] + 1)]
        history = await client.history(f"task:{task_id}", limit=2, reverse=True)
        assert [publication.offset for publication in history.publications] == [4, 3]
        await leave(client)

    asyncio.run(main())


def test_python_clients_on_two_relays_see_each_other(relays: list[RelayServer]) -> None:
    async def main() -> None:
        first, _, events = await connect(relays[0], "ann", "meet", info={"name": "Ann"})
        assert await events.next() == ("subscribed", False, False)
        assert await events.next() == ("join", "ann")
        second, _, other_events = await connect(relays[1], "bob", "meet")
        assert await other_events.next() == ("subscribed", False, False)
        assert await events.next() == ("join", "bob")
        for client in (first, second):
            present = await client.presence("task:meet")
            assert sorted(info.user for info in present.clients.values()) == ["ann", "bob"]
            stats = await client.presence_stats("task:meet")
            assert (stats.num_clients, stats.num_users) == (2, 2)
        await leave(second)
        assert await events.next() == ("leave", "bob")
        assert len((await first.presence("task:meet")).clients) == 1
        await leave(first)

    asyncio.run(main())


class NodeClient:
    """A client on the package of npm, as a process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        #: Tokens that it has asked for.
        self.tokens = 0

    def next(self, *wanted: str) -> dict[str, Any]:
        """Return the next event of one of these kinds."""
        assert self._process.stdout is not None
        for text in self._process.stdout:
            event: dict[str, Any] = json.loads(text)
            # A transport is refused, or a token has expired: it tries the next one.
            assert event["what"] != "error" or event["error"]["code"] in (2, 109), event
            self.tokens += event["what"] == "token"
            if event["what"] in wanted:
                return event
        raise AssertionError("the client has ended")

    def do(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()


@contextmanager
def node_client(
    transports: list[dict[str, str]], emulation: RelayServer, tokens: list[str], channel: str
) -> Iterator[NodeClient]:
    arguments = [transports, f"http://127.0.0.1:{emulation.port}/emulation", tokens, channel]
    command = ["node", "centrifuge_client.js", *map(json.dumps, arguments)]
    process = subprocess.Popen(command, cwd=NODE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield NodeClient(process)
    finally:
        process.communicate(timeout=PATIENCE)  # which closes its input, upon which it ends


@pytest.mark.usefixtures("ws_package")
@pytest.mark.parametrize("kind", ["websocket", "sse", "http_stream"])
def test_the_package_of_npm(redis_server: RedisServer, relays: list[RelayServer], kind: str) -> None:
    task_id = f"node-{kind}"
    redis_server.publish_task(task_id, progress=1)
    transports = [{"transport": kind, "endpoint": endpoint(relays[0], kind)}]
    if kind != "websocket":  # it is refused there
        transports.insert(0, {"transport": "websocket", "endpoint": endpoint(relays[0]) + "/nowhere"})
    # The first token ends soon: the client shows the next one.
    tokens = [token("ann", 2, channels=["general"]), *(token("ann", channels=["general"]) for _ in range(3))]
    # What it sends goes to the other relay.
    with node_client(transports, relays[1], tokens, f"task:{task_id}") as client:
        assert client.next("connected")["transport"] == kind
        assert client.next("publication") == {"what": "publication", "data": {"progress": 1}, "offset": 1}
        assert client.next("join")["user"] == "ann"
        client.do("presence")
        assert client.next("presence")["users"] == ["ann"]
        client.do("rpc")
        assert client.next("rpc")["code"] == 108
        client.do("publish")
        assert client.next("refused")["code"] == 103
        client.do("cut")
        client.next("connecting")
        redis_server.publish_task(task_id, progress=2)
        assert client.next("subscribed") == {"what": "subscribed", "recovered": True, "wasRecovering": True}
        assert client.next("publication")["offset"] == 2
        client.do("history")
        assert client.next("history")["offsets"] == [2, 1]
        while client.tokens < 2:  # the first one ends after two seconds
            client.next("token")
        redis_server.publish_task(task_id, progress=3)
        assert client.next("publication", "disconnected")["offset"] == 3
        client.do("leave")
        assert client.next("disconnected")["code"] == 0


@pytest.mark.usefixtures("ws_package")
def test_what_a_client_publishes_reaches_another_on_another_relay(relays: list[RelayServer]) -> None:
    def transports(relay: RelayServer) -> list[dict[str, str]]:
        return [{"transport": "websocket", "endpoint": endpoint(relay)}]

    with (
        node_client(transports(relays[0]), relays[0], [token("ann")], "chat:1") as ann,
        node_client(transports(relays[1]), relays[1], [token("bob")], "chat:1") as bob,
    ):
        ann.next("subscribed")
        bob.next("subscribed")
        ann.do("publish")
        assert bob.next("publication")["data"] == {"from": "js"}


#: Seconds of a cut, which is longer than clients wait for one answer.
CUT = 5.0


@pytest.mark.usefixtures("ws_package")
def test_a_cut_of_five_seconds(redis_server: RedisServer, relays: list[RelayServer], tmp_path: Path) -> None:
    """The network of three clients is gone for that long: in Python, in Node and in Chromium."""
    missed = [2, 3, 4]

    async def in_python(port: int, cut: asyncio.Event, is_ready: asyncio.Event) -> None:
        events = Events()
        address = f"ws://127.0.0.1:{port}/connection/websocket"
        client = Client(address, token=token("py"), max_reconnect_delay=1.0)
        await client.connect()
        await client.new_subscription("task:away", events).subscribe()
        assert await events.next() == ("subscribed", False, False)
        assert (await events.next())[2] == 1
        is_ready.set()
        await cut.wait()
        assert await events.next() == ("subscribed", True, True)
        assert [(await events.next())[1:] for _ in missed] == [({"progress": n}, n) for n in missed]
        await leave(client)

    def others(port: int, stack: ExitStack) -> tuple[NodeClient, Callable[[], dict[str, Any]]]:
        transports = [{"transport": "websocket", "endpoint": f"ws://127.0.0.1:{port}/connection/websocket"}]
        node = stack.enter_context(node_client(transports, relays[0], [token("js")], "task:away"))
        asked = {"transports": transports, "emulation": "", "token": token("page"), "channel": "task:away"}
        next_report = stack.enter_context(shown_page(tmp_path, asked))
        assert _next(next_report, "connected") == {"what": "connected", "transport": "websocket"}
        for client in (next_report, partial(node.next, "publication")):
            assert client()["offset"] == 1
        return node, next_report

    async def main(port: int, cut_network: Callable[[], None]) -> None:
        cut, is_ready = asyncio.Event(), asyncio.Event()
        with ExitStack() as stack:
            async with asyncio.TaskGroup() as group:
                group.create_task(in_python(port, cut, is_ready))
                node, next_report = await asyncio.to_thread(others, port, stack)
                await is_ready.wait()
                cutting = group.create_task(asyncio.to_thread(cut_network))
                await asyncio.to_thread(node.next, "connecting")
                for progress in missed:
                    redis_server.publish_task("away", progress=progress)
                await cutting
                cut.set()
            assert node.next("subscribed")["recovered"]
            assert [node.next("publication")["offset"] for _ in missed] == missed
            reports = [next_report() for _ in range(2 + len(missed))]
            assert reports[0]["what"] == "connected"
            assert reports[1] == {"what": "recovering", "recovered": True}
            assert [report["offset"] for report in reports[2:]] == missed

    redis_server.publish_task("away", progress=1)
    thread = ProxyThread(relays[0].port)
    with thread.running():
        asyncio.run(main(thread.proxy.port, partial(thread.cut, CUT)))


@contextmanager
def shown_page(directory: Path, asked: dict[str, Any]) -> Iterator[Callable[[], dict[str, Any]]]:
    """Chromium with the page; its argument goes into the query. Waits for the page's reports."""
    bundle = (NODE / "node_modules" / "centrifuge" / "dist" / "centrifuge.js").read_text()
    page = directory / "page.html"
    text = (Path(__file__).parent / "pages" / "centrifuge.html").read_text()
    page.write_text(text.replace("/* bundle */", bundle.replace("</script", "<\\/script")))
    query = "&".join(f"{name}={quote(json.dumps(value))}" for name, value in asked.items())
    with page_server(page) as (url, next_report), chromium(directory, f"{url}?{query}"):
        yield next_report


@pytest.mark.usefixtures("ws_package")
def test_a_page_in_chromium_without_websockets(
    redis_server: RedisServer, relays: list[RelayServer], tmp_path: Path
) -> None:
    transports = [{"transport": "websocket", "endpoint": endpoint(relays[0]) + "/no"}]
    transports.append({"transport": "sse", "endpoint": endpoint(relays[0], "sse")})
    redis_server.publish_task("page", progress=1)
    asked = {
        "transports": transports,
        "emulation": f"http://127.0.0.1:{relays[1].port}/emulation",
        "token": token("ann"),
        "channel": "task:page",
    }
    with shown_page(tmp_path, asked) as next_report:
        assert _next(next_report, "connected") == {"what": "connected", "transport": "sse"}
        offset = _next(next_report, "publication")["offset"]
        redis_server.publish_task("page", progress=2)
        assert _next(next_report, "publication") == {
            "what": "publication",
            "data": {"progress": 2},
            "offset": offset + 1,
        }


def _next(next_report: Callable[[], dict[str, Any]], what: str) -> dict[str, Any]:
    report = next_report()
    assert report["what"] == what, report
    return report
