"""Kinds and states of Redis servers: protocols, versions, read-only replicas, and one that cuts off who reads too slowly."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import redis as redis_py
import trio
from relay_wire import keys
from structlog.testing import capture_logs

from relay.broker.opening import open_redis
from relay.broker.service import RedisBroker
from relay.config import RedisSettings, Settings
from tests.conftest import StartRelay
from tests.harness import RedisServer, eventually


class WithoutHello(RedisServer):
    """A server that does not know RESP3, as an old one, or a proxy."""

    def client(self) -> redis_py.Redis:
        return redis_py.Redis(port=self.port, protocol=2, socket_timeout=20.0)


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[RedisBroker]:
    read: Any = Settings
    redis_settings: Any = RedisSettings
    settings = read(_env_file=None, redis_health_interval=0.1)
    with trio.fail_after(30):
        async with open_redis(url, settings, redis_settings(_env_file=None)) as redis, trio.open_nursery() as nursery:
            redis.subscribe_raw("plain", lambda *_: None)
            nursery.start_soon(redis.start_listening)
            yield redis
            nursery.cancel_scope.cancel()


async def until(check: Callable[[], object]) -> None:
    while not check():  # noqa: ASYNC110 - what is waited for is another process's doing
        await trio.sleep(0.01)


@pytest.mark.parametrize("options", ["", "?protocol=3", "?protocol=2", "?decode_responses=True&max_connections=1"])
@pytest.mark.parametrize("knows_hello", [True, False])
async def test_whatever_protocol_the_url_and_the_server_speak_the_subscription_works(
    options: str, knows_hello: bool, tmp_path: Path
) -> None:
    kind, arguments = (RedisServer, ()) if knows_hello else (WithoutHello, ("--rename-command", "HELLO", ""))
    with kind(tmp_path, "--save", "", *arguments) as server:
        async with listening(server.url + options) as redis:
            await until(lambda: redis.alive)
            assert await redis.publish_task_update("t", {"n": 1}) is not None
            assert redis.unready_reason is None


async def test_a_version_that_is_too_old_is_named(redis_server: RedisServer) -> None:
    async def pretend_to_be_old(client: trio.SocketStream) -> None:
        async with (
            client,
            await trio.open_tcp_stream("127.0.0.1", redis_server.port) as server,
            trio.open_nursery() as nursery,
        ):

            async def up() -> None:
                async for data in client:
                    await server.send_all(data)
                nursery.cancel_scope.cancel()

            nursery.start_soon(up)
            async for data in server:
                await client.send_all(data.replace(b"redis_version:7.2.4", b"redis_version:5.0.7"))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, pretend_to_be_old, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        async with listening(f"redis://127.0.0.1:{port}/0") as redis:
            await until(lambda: "too old" in str(redis.unready_reason))
            assert "6.2" in str(redis.unready_reason)
            assert not redis.alive
        nursery.cancel_scope.cancel()


async def test_a_subscription_that_redis_cut_off_for_its_buffer_is_counted_and_explained(
    redis_server: RedisServer,
) -> None:
    with redis_server.client() as admin:
        admin.config_set("client-output-buffer-limit", "pubsub 100000 0 0")
    with capture_logs() as logs:
        async with listening(redis_server.url) as redis:
            await until(lambda: redis.alive)
            # In one go, so that nothing can be sent in between.
            many = "for _ = 1, 100 do redis.call('PUBLISH', 'plain', ARGV[1]) end"
            await redis.command("EVAL", many, 0, b"x" * 10_000)
            await until(lambda: redis.output_buffer_disconnects)
            await until(lambda: redis.alive)
            assert redis.output_buffer_disconnects == 1
    assert any("client-output-buffer-limit pubsub" in line["event"] for line in logs)


def test_a_relay_on_a_replica_that_takes_no_writes_is_not_ready_soon(
    redis_server: RedisServer, tmp_path: Path, start_relay: StartRelay
) -> None:
    relay = start_relay()
    with RedisServer(tmp_path, "--save", "") as master, redis_server.client() as admin:
        admin.replicaof("127.0.0.1", str(master.port))
        began = monotonic()
        eventually(lambda: relay.get("/readyz")[0] == 503, within=10.0)
        assert monotonic() - began < 4.0
        admin.replicaof("NO", "ONE")
        eventually(lambda: relay.get("/readyz")[0] == 200, within=10.0)


def test_one_channel_that_cannot_be_read_ends_no_relay(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay()
    with relay.client() as bystander, redis_server.client() as admin:
        bystander.send({"type": "subscribe", "task_id": "good"})
        assert bystander.receive()["type"] == "subscribed"
        damages: list[Callable[[str], object]] = [
            lambda key: admin.hset(f"{key}:meta", mapping={"epoch": b"\xff\xfe", "top": 1, "volume": 1}),
            lambda key: admin.hset(f"{key}:meta", mapping={"epoch": "e", "top": "many", "volume": 1}),
            lambda key: admin.set(f"{key}:meta", "x"),
            lambda key: admin.set(f"{key}:log", "x"),
            lambda key: admin.hset(f"{key}:state", mapping={b"\xff": b"1"}),
        ]
        for number, damage in enumerate(damages):
            task = f"bad-{number}"
            redis_server.publish_task(task, n=0)
            eventually(partial(admin.exists, keys.state(f"task:{task}")))
            damage(keys.pubsub_channel(f"task:{task}"))
            with relay.client() as client:
                client.send({"type": "subscribe", "task_id": task, "position": {"epoch": "e", "offset": 0}})
                assert client.receive()["type"] in ("subscribed", "error")
            redis_server.publish_task(task, n=1)
            redis_server.publish_task("good", n=number)
            assert bystander.receive()["data"] == {"n": number}
        assert relay.get("/readyz")[0] == 200


def test_who_subscribes_before_a_task_exists_writes_nothing_and_is_not_reset(
    redis_server: RedisServer, start_relay: StartRelay
) -> None:
    relay = start_relay()
    with relay.client() as client, redis_server.client() as admin:
        before = admin.dbsize()
        positions = {}
        for number in range(20):
            client.send({"type": "subscribe", "task_id": str(number), "position": None})
            answer = client.receive()
            positions[answer["task_id"]] = answer["position"]
        assert admin.dbsize() == before
        for number in range(20):
            redis_server.publish_task(str(number), n=1)
            message = client.receive()
            assert message["data"] == {"n": 1}
            assert message["position"] == {**positions[message["task_id"]], "offset": 1}
        with relay.client() as returned:
            returned.send({"type": "subscribe", "task_id": "3", "position": positions["3"]})
            assert returned.receive()["recovered"] is True
            assert returned.receive()["data"] == {"n": 1}
        assert relay.metric("relay_history_resets_total") == 0
