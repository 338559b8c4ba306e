"""What clients notice of the proxies in docker/proxies/: nothing. Two relays, and a real proxy with TLS and HTTP/2 before them.

`make test` runs those of Debian; `make test-proxies` installs the others and runs all (RELAY_PROXIES=all).
"""

import os
import re
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from relay_client import Publisher
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from relay.config import Settings
from tests.deployment.proxies import FOLDER, KINDS, Proxy
from tests.harness import PATIENCE, Client, RedisServer, RelayServer, eventually

HERE = list(KINDS) if os.environ.get("RELAY_PROXIES") == "all" else ["nginx", "haproxy"]

#: What a limit of one address is tried with.
MOST = 3


class Site:
    """A proxy before two relays, and their Redis."""

    def __init__(self, proxy: Proxy, relays: list[RelayServer], redis: RedisServer, authority: Path) -> None:
        self.proxy, self.relays, self.redis, self.authority = proxy, relays, redis, authority
        self.url = f"https://127.0.0.1:{proxy.port}"

    @property
    def trust(self) -> ssl.SSLContext:
        """A fresh one: clients write into it which protocols they speak."""
        return ssl.create_default_context(cafile=str(self.authority))

    def websocket(self, source: str = "127.0.0.1", **headers: str) -> Any:
        url = f"wss://127.0.0.1:{self.proxy.port}/ws/tasks"
        return connect(
            url, ssl=self.trust, open_timeout=PATIENCE, source_address=(source, 0), additional_headers=headers
        )

    def browser(self) -> httpx.Client:
        """A client that speaks HTTP/2, as browsers do."""
        return httpx.Client(http2=True, verify=self.trust, timeout=PATIENCE, base_url=self.url)

    def is_up(self) -> bool:
        assert self.proxy.child.poll() is None, self.proxy.logged()
        try:
            with self.browser() as browser:
                return browser.get("/api/tasks").status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RedisServer, list[RelayServer]]]:
    directory = tmp_path_factory.mktemp("relays")
    with ExitStack() as stack:
        for name in ("redis", "relay1", "relay2"):
            (directory / name).mkdir()
        redis = stack.enter_context(RedisServer(directory / "redis", "--save", ""))
        relays = [
            stack.enter_context(
                RelayServer(
                    directory / name,
                    redis.url,
                    trusted_proxies="127.0.0.1",
                    max_clients_per_address=MOST,
                    graceful_timeout=5,
                    anonymous="watch:all list:all publish:all",
                )
            )
            for name in ("relay1", "relay2")
        ]
        yield redis, relays


@pytest.fixture(scope="module", params=HERE)
def site(
    request: pytest.FixtureRequest,
    servers: tuple[RedisServer, list[RelayServer]],
    certificate: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    redis, relays = servers
    directory = tmp_path_factory.mktemp(request.param)
    authority = certificate[1].parent / "ca.pem"
    with Proxy(request.param, directory, (relays[0].port, relays[1].port), certificate) as proxy:
        site = Site(proxy, relays, redis, authority)
        eventually(site.is_up)
        yield site


def test_websocket(site: Site) -> None:
    with site.websocket() as connection, Publisher(site.redis.url) as publisher:
        client = Client(connection)
        client.subscribe("ws")
        publisher.publish_task_update("ws", {"progress": 1})
        assert client.receive()["data"] == {"progress": 1}


def events(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    """The events of a stream: id and data, each as soon as it is there."""
    event: dict[str, str] = {}
    for line in response.iter_lines():
        if line == "" and "data" in event:
            yield event.get("id", ""), msgspec.json.decode(event["data"])
            event = {}
        name, _, value = line.partition(": ")
        if name in ("id", "data"):
            event[name] = value


def test_events_arrive_one_by_one_over_http2_and_resume(site: Site) -> None:
    with site.browser() as browser, Publisher(site.redis.url) as publisher:
        publisher.publish_task_update("sse", {"progress": 0})
        with browser.stream("GET", "/events?task=sse") as response:
            assert (response.status_code, response.http_version) == (200, "HTTP/2")
            stream = events(response)
            last = ""
            for progress in range(4):  # each is published when the one before has arrived: nothing buffers
                while True:
                    last, message = next(stream)
                    if message.get("data", {}).get("progress") == progress:
                        break
                publisher.publish_task_update("sse", {"progress": progress + 1})
        publisher.publish_task_update("sse", {"progress": 5})
        with browser.stream("GET", "/events?task=sse", headers={"Last-Event-ID": last}) as response:
            missed = (message["data"]["progress"] for _, message in events(response) if "progress" in message["data"])
            assert [next(missed), next(missed)] == [4, 5]


def test_the_api_is_public_and_metrics_are_not(site: Site) -> None:
    with site.browser() as browser:
        assert browser.post("/api/tasks/api", json={"data": {"x": "y" * 200_000}}).status_code == 200
        assert browser.get("/relay.js").status_code == 200
        assert {browser.get(path).status_code for path in ("/metrics", "/status", "/readyz/../metrics")} == {404}


def test_the_address_of_the_client_counts_and_not_what_it_says(site: Site) -> None:
    """Each relay has a limit for an address. A client at another one is let in, and a forged header does not help."""
    with ExitStack() as stack:
        for _ in range(MOST * 4):  # until both relays have as many as they take, wherever the proxy leads each
            with suppress(InvalidStatus):
                stack.enter_context(site.websocket("127.0.0.7"))
        forged = {"X-Forwarded-For": "203.0.113.7", "Forwarded": "for=203.0.113.7"}
        with pytest.raises((InvalidStatus, ConnectionClosed)):  # noqa: PT012 - refused at once, or right after
            for _ in range(2):  # one for each relay
                connection = stack.enter_context(site.websocket("127.0.0.7", **forged))
                Client(connection).subscribe("one too many")
        with site.websocket("127.0.0.8") as connection:
            Client(connection).subscribe("another")


def end_of(connection: Any) -> int | None:
    """The code with which a connection was closed; None if it is open."""
    try:
        connection.recv(0.05)
    except ConnectionClosed as error:
        return error.rcvd.code if error.rcvd is not None else 1006
    except TimeoutError:
        pass
    return None


def test_a_relay_drains_and_its_clients_move_to_the_other(site: Site) -> None:
    draining, other = site.relays

    def clients(relay: RelayServer) -> float:
        return relay.metric('relay_connections{transport="hijacked"}')

    eventually(lambda: not clients(draining) and not clients(other))
    with ExitStack() as stack:
        # At least one client on each relay. Some proxies choose at random between two relays that have as many clients.
        connections: list[Any] = []
        while not (clients(draining) and clients(other)):
            assert len(connections) < 20, site.proxy.logged()
            connections.append(stack.enter_context(site.websocket(f"127.0.0.{10 + len(connections)}")))
            Client(connections[-1]).subscribe("drain")
        eventually(lambda: clients(draining) + clients(other) == len(connections))
        moved = int(clients(draining))
        stack.callback(eventually, site.is_up)
        stack.callback(draining.start)
        assert draining.terminate() == 0
        eventually(lambda: [end_of(connection) for connection in connections].count(1001) == moved)
        assert clients(other) == len(connections) - moved
        # The relay is gone: every client is let in, by the other one.
        for number in range(4):
            with site.websocket(f"127.0.0.{40 + number}") as connection:
                Client(connection).subscribe("drain")


@pytest.mark.parametrize("kind", KINDS)
def test_a_proxy_waits_for_more_than_two_heartbeats(kind: str) -> None:
    text = "".join((FOLDER / name).read_text() for name in KINDS[kind].files)
    limits = [int(found) for found in re.findall(KINDS[kind].idle, text)]
    heartbeat = Settings.model_fields["heartbeat_interval"].default
    assert limits
    assert min(limits) >= 2 * heartbeat + Settings.model_fields["dead_peer_timeout"].default


def test_every_configuration_is_one_of_a_proxy() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {name for kind in KINDS.values() for name in kind.files}
