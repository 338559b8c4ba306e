"""Centrifugo's server API, as its published client speaks it, on two relays."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import Any

import httpx
import jwt
import pytest
from cent import (
    BatchRequest,
    BroadcastRequest,
    CentApiResponseError,
    CentUnauthorizedError,
    ChannelsRequest,
    Client,
    Disconnect,
    DisconnectRequest,
    HistoryRemoveRequest,
    HistoryRequest,
    InfoRequest,
    PresenceRequest,
    PresenceStatsRequest,
    PublishRequest,
    RefreshRequest,
    StreamPosition,
    SubscribeRequest,
    UnsubscribeRequest,
)
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.harness import PATIENCE, RedisServer, RelayServer, eventually

SECRET = "a secret of the tests, which has 32 bytes and more"
ALL, SOME = "relay_all-of-it", "relay_some-of-it"


@pytest.fixture(scope="module")
def relays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RelayServer, RelayServer]]:
    directories = [tmp_path_factory.mktemp("centrifugo") for _ in range(3)]
    scopes = {ALL: "publish:all watch:all list:all revoke:all", SOME: "publish:prefix:a"}
    keys = ";".join(f"{name[6:]}:{sha256(name.encode()).hexdigest()}:{scope}" for name, scope in scopes.items())
    settings: dict[str, Any] = {
        "api_keys": keys,
        "extra_channels": "news",
        "anonymous": "watch:all",
        "jwt_secret": SECRET,
        "channel_namespaces": '[{"name":"chat","presence":true,"allow_subscribe_for_client":true}]',
    }
    with (
        RedisServer(directories[0], "--save", "") as redis,
        RelayServer(directories[1], redis.url, **settings) as first,
        RelayServer(directories[2], redis.url, **settings) as second,
    ):
        yield first, second


class Connected:
    """A client of the Centrifuge protocol."""

    def __init__(self, connection: ClientConnection, user: str) -> None:
        self._connection = connection
        self._unread: list[Any] = []
        token = jwt.encode({"sub": user, "exp": time.time() + 600}, SECRET, "HS256")
        self.id: str = self.call(connect={"token": token})["client"]

    def receive(self) -> Any:
        while not self._unread:
            text = self._connection.recv(timeout=PATIENCE)
            assert isinstance(text, str)
            self._unread = [json.loads(line) for line in text.split("\n")]
        return self._unread.pop(0)

    def call(self, **command: Any) -> Any:
        self._connection.send(json.dumps({"id": 1, **command}))
        while "id" not in (reply := self.receive()):
            pass
        (method,) = command
        return reply[method]

    def push(self) -> Any:
        return self.receive()["push"]

    def close_code(self) -> int:
        with suppress(ConnectionClosed):
            while True:
                self._connection.recv(timeout=PATIENCE)
        code = self._connection.close_code
        assert code is not None
        return code


@contextmanager
def connected(relay: RelayServer, user: str) -> Iterator[Connected]:
    with connect(f"ws://127.0.0.1:{relay.port}/connection/websocket") as connection:
        yield Connected(connection, user)


def url(relay: RelayServer) -> str:
    return f"http://127.0.0.1:{relay.port}/centrifugo/api"


def test_publishes_reach_clients_and_history(relays: tuple[RelayServer, RelayServer]) -> None:
    first, second = (Client(url(relay), ALL) for relay in relays)
    with relays[1].client("a1") as client:
        published = first.publish(PublishRequest(channel="task:a1", data={"progress": 1}))
        assert client.receive()["data"] == {"progress": 1}
        repeated = [
            first.publish(PublishRequest(channel="task:a1", data={"progress": 2}, idempotency_key="k")).offset
            for _ in range(2)
        ]
        assert client.receive()["data"] == {"progress": 2}
    assert (published.offset, repeated) == (1, [2, 2])
    answer = second.broadcast(BroadcastRequest(channels=["task:a1", "news", "unknown"], data={"progress": 3}))
    assert [each.error.code if each.error else each.result and each.result.offset for each in answer.responses] == [
        3,
        1,
        102,
    ]

    def history(**options: Any) -> list[int]:
        result = second.history(HistoryRequest(channel="task:a1", **options))
        assert (result.offset, result.epoch) == (3, published.epoch)
        return [each.offset for each in result.publications]

    assert history() == []
    assert history(limit=-1) == [1, 2, 3]
    assert history(limit=2) == [1, 2]
    assert history(limit=2, reverse=True) == [3, 2]
    since = StreamPosition(offset=2, epoch=published.epoch or "")
    assert history(limit=9, since=since) == [3]
    assert history(limit=9, since=since, reverse=True) == [1]
    with pytest.raises(CentApiResponseError, match="unrecoverable position"):
        history(limit=9, since=StreamPosition(offset=2, epoch="another"))
    first.history_remove(HistoryRemoveRequest(channel="task:a1"))
    assert history(limit=9) == []


def test_channels_and_nodes_are_those_of_all_relays(relays: tuple[RelayServer, RelayServer]) -> None:
    api = Client(url(relays[0]), ALL)
    nodes = api.info(InfoRequest()).nodes
    assert len({node.uid for node in nodes}) == 2
    with relays[0].client("c1") as here, relays[1].client("c1", "c2") as there:
        for client in (here, there):
            client.send({"type": "ping"})
            while client.receive()["type"] != "pong":
                pass
        channels = api.channels(ChannelsRequest(pattern="task:c*")).channels
        assert {name: each.num_clients for name, each in channels.items()} == {"task:c1": 2, "task:c2": 1}
        assert api.channels(ChannelsRequest()).channels["general"].num_clients == 2
        assert sum(node.num_clients for node in api.info(InfoRequest()).nodes) == 2


@pytest.mark.parametrize("parallel", [False, True])
def test_a_batch(relays: tuple[RelayServer, RelayServer], parallel: bool) -> None:
    requests = [PublishRequest(channel=f"chat:{parallel}{n}", data={"n": n}) for n in range(20)]
    api = Client(url(relays[0]), ALL)
    replies = api.batch(BatchRequest(requests=[*requests, HistoryRequest(channel="chat:x")], parallel=parallel)).replies
    assert [reply.model_dump()["offset"] for reply in replies] == [1] * 20 + [0]
    for n in range(20):
        publications = Client(url(relays[1]), ALL).history(HistoryRequest(channel=f"chat:{parallel}{n}", limit=1))
        assert [each.data for each in publications.publications] == [{"n": n}]


def test_keys_and_malformed_requests(relays: tuple[RelayServer, RelayServer]) -> None:
    some = Client(url(relays[0]), SOME)
    assert some.publish(PublishRequest(channel="task:a2", data={})).offset == 1
    for request in (PublishRequest(channel="task:b", data={}), PublishRequest(channel="news", data={})):
        with pytest.raises(CentApiResponseError, match="permission denied"):
            some.publish(request)
    with pytest.raises(CentApiResponseError, match="permission denied"):
        some.channels(ChannelsRequest())
    with pytest.raises(CentUnauthorizedError):
        Client(url(relays[0]), "relay_wrong").info(InfoRequest())

    def post(method: str, content: str = "{}", key: str = ALL, **options: Any) -> httpx.Response:
        headers = {"authorization": f"apikey {key}", **options.pop("headers", {})}
        return httpx.post(f"{url(relays[0])}/{method}", content=content, headers=headers, **options)

    assert post("info").status_code == 200
    assert post("nothing").status_code == 404
    assert post("publish", "{").status_code == 400
    assert post("publish").json()["error"]["code"] == 107
    assert post("publish", '{"channel":"news","data":"text"}').json()["error"]["code"] == 107
    assert post("publish", '{"channel":"news","data":{},"skip_history":true}').json()["error"]["code"] == 108
    assert post("publish", '{"channel":"news","b64data":"e30="}').json()["result"]["offset"] > 0
    assert post("publish", '{"channel":"no"}', headers={"x-centrifugo-error-mode": "transport"}).status_code == 400
    assert post("info", params={"api_key": ALL}).status_code == 400
    assert httpx.get(f"{url(relays[0])}/info").status_code == 405


def test_presence_over_all_relays(relays: tuple[RelayServer, RelayServer]) -> None:
    api = Client(url(relays[1]), ALL)
    with connected(relays[0], "ann") as ann, connected(relays[1], "bob") as bob, connected(relays[1], "bob") as other:
        clients = {ann.id: "ann", bob.id: "bob", other.id: "bob"}
        for client in (ann, bob, other):
            client.call(subscribe={"channel": "chat:room"})

        def present() -> dict[str, str]:
            presence = api.presence(PresenceRequest(channel="chat:room")).presence
            return {name: each.user for name, each in presence.items()}

        eventually(lambda: present() == clients)
        stats = api.presence_stats(PresenceStatsRequest(channel="chat:room"))
        assert (stats.num_clients, stats.num_users) == (3, 2)
        assert sum(node.num_users for node in api.info(InfoRequest()).nodes) == 2
    eventually(lambda: present() == {})
    with pytest.raises(CentApiResponseError, match="not available"):
        api.presence(PresenceRequest(channel="news"))


def test_orders_reach_the_clients_of_a_user_on_all_relays(relays: tuple[RelayServer, RelayServer]) -> None:
    api = Client(url(relays[0]), ALL)
    with connected(relays[0], "cy") as here, connected(relays[1], "cy") as there, connected(relays[1], "dee") as other:
        api.subscribe(SubscribeRequest(user="cy", channel="chat:all", data={"hello": 1}))
        for client in (here, there):
            push = client.push()
            assert (push["channel"], push["subscribe"]["data"]) == ("chat:all", {"hello": 1})
        api.publish(PublishRequest(channel="chat:all", data={"n": 1}))
        assert [client.push()["pub"]["data"] for client in (here, there)] == [{"n": 1}] * 2
        api.unsubscribe(UnsubscribeRequest(user="cy", channel="chat:all", client=there.id))
        assert there.push()["unsubscribe"]["code"] == 2000
        api.publish(PublishRequest(channel="chat:all", data={"n": 2}))
        assert here.push()["pub"]["data"] == {"n": 2}
        api.refresh(RefreshRequest(user="cy", client=here.id, expired=True))
        assert here.close_code() == 3005
        disconnect = Disconnect(code=4321, reason="out")
        api.disconnect(DisconnectRequest(user="dee", disconnect=disconnect, whitelist=[other.id]))
        api.disconnect(DisconnectRequest(user="cy", disconnect=disconnect))
        assert there.close_code() == 4321
        assert other.call(subscribe={"channel": "chat:all"})  # it is still there
        api.disconnect(DisconnectRequest(user="dee"))
        assert other.close_code() == 3503
    for request in (SubscribeRequest(user="x", channel="no"), SubscribeRequest(user="", channel="chat:all")):
        with pytest.raises(CentApiResponseError, match=r"unknown channel|bad request"):
            api.subscribe(request)
    with pytest.raises(CentApiResponseError, match="permission denied"):
        Client(url(relays[0]), SOME).disconnect(DisconnectRequest(user="cy"))
