"""RedisBroker on a real Valkey: publishing, callbacks, deadlines, refusals."""

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import pytest
import trio
from structlog.testing import capture_logs

from relay.broker import script_calls
from relay.broker.channel_subscriptions import ChannelSubscriptions
from relay.broker.opening import open_redis
from relay.broker.service import RedisBroker
from relay.broker.topology import ClusterServers
from relay.config import RedisSettings, Settings
from relay.core.errors import BadMessage, BrokerError, BrokerRefused, BrokerUnavailable
from relay.core.hub import Hub
from tests.core.test_hub import CountingFormat, RecordingSubscriber
from tests.harness import PATIENCE, RedisServer

SECRET = "s3cret!@/:"


@asynccontextmanager
async def service(url: str, **settings: Any) -> AsyncIterator[RedisBroker]:
    """A service that does not listen yet."""
    read: Any = Settings
    redis_settings: Any = RedisSettings
    async with open_redis(url, read(_env_file=None, **settings), redis_settings(_env_file=None)) as redis:
        yield redis


def followed(redis: RedisBroker) -> tuple[Hub, ChannelSubscriptions]:
    """A hub, and what keeps its channels subscribed."""
    channels: ChannelSubscriptions
    hub = Hub(
        on_pending=lambda: None,
        on_first_subscriber=lambda channel: channels.on_change(channel),
        on_last_unsubscribed=lambda channel: channels.on_change(channel),
        on_gap=lambda channel: channels.on_gap(channel),
    )
    channels = redis.follow(hub)
    return hub, channels


async def until(check: Callable[[], object]) -> None:
    with trio.fail_after(PATIENCE):
        while not check():  # noqa: ASYNC110 - what is waited for is another process's doing
            await trio.sleep(0.01)


@asynccontextmanager
async def listening(redis: RedisBroker, *receivers: Any) -> AsyncIterator[None]:
    """The service hears what it was subscribed to before."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(redis.start_listening, *receivers)
        await until(lambda: redis.alive)
        yield
        nursery.cancel_scope.cancel()


async def test_a_plain_publish_goes_to_its_subscribers(redis_server: RedisServer) -> None:
    received: list[tuple[str, bytes]] = []
    async with service(redis_server.url) as redis:
        assert await redis.publish("nobody", b"x") == 0
        redis.subscribe_raw("a", lambda name, message: received.append((name, message)))
        redis.subscribe_raw("[ab]", lambda name, message: received.append((f"by pattern: {name}", message)))
        async with listening(redis):
            assert await redis.publish("a", b"\xff\x00") == 2
            assert await redis.publish("b", b"") == 1
            await until(lambda: len(received) == 3)
        assert 0 <= await redis.ping() < PATIENCE
    assert received == [("a", b"\xff\x00"), ("by pattern: a", b"\xff\x00"), ("by pattern: b", b"")]


async def test_an_update_of_a_task_or_for_all_gets_a_position_and_reaches_the_hub(redis_server: RedisServer) -> None:
    recording, format = RecordingSubscriber(), CountingFormat()
    async with service(redis_server.url) as redis:
        hub, channels = followed(redis)
        async with listening(redis, channels), trio.open_nursery() as nursery:
            nursery.start_soon(channels.run)
            for channel in ("task:42", "general"):
                hub.subscribe(recording, channel, format)
            await until(lambda: None not in {hub.position("task:42"), hub.position("general")})
            first = await redis.publish_task_update(42, {"progress": 40, "message": "é"})
            news = await redis.publish_general_update({"news": [1]})
            second = await redis.publish_task_update("42", {"progress": 41})
            await until(lambda: hub.position("task:42") == second and hub.position("general") == news)
            hub.flush()
            nursery.cancel_scope.cancel()
        with pytest.raises(BadMessage):
            await redis.publish_task_update("", {})
    assert first is not None
    assert second == (first.epoch, first.offset + 1)
    received = [msgspec.json.decode(message) for message in recording.received]
    assert [message for message in received if "news" not in message] == [
        {"progress": 40, "message": "é"},
        {"progress": 41},
    ]
    assert {"news": [1]} in received


async def test_channels_come_and_go_while_the_connection_is_cut_again_and_again(redis_server: RedisServer) -> None:
    """Whatever moment it is cut at: nothing is written to a connection that has gone, and none is made in its place."""
    recording, format = RecordingSubscriber(), CountingFormat()
    cuts = 0
    async with service(redis_server.url) as redis:
        hub, channels = followed(redis)

        async def come_and_go() -> None:
            number = 0
            while cuts < 40:
                channel = f"task:{number % 5}"  # some are joined again before they were left for good
                number += 1
                hub.subscribe(recording, channel, format)
                for _ in range(number % 7):  # the first steps of attaching it
                    await trio.lowlevel.checkpoint()
                hub.unsubscribe(recording, channel, format)

        def cut() -> int:
            with redis_server.client() as admin:
                return int(admin.execute_command("CLIENT", "KILL", "TYPE", "PUBSUB"))

        with capture_logs():
            async with listening(redis, channels), trio.open_nursery() as nursery:
                nursery.start_soon(channels.run)
                async with trio.open_nursery() as guests:
                    guests.start_soon(come_and_go)
                    while cuts < 40:
                        cuts += await trio.to_thread.run_sync(cut)
                        await until(lambda: redis.alive)
                for number in range(5):
                    channel = f"task:{number}"
                    hub.subscribe(recording, channel, format)
                    await until(lambda channel=channel: hub.position(channel) is not None)  # type: ignore[misc]
                    last = await redis.publish_task_update(number, {})
                    await until(lambda channel=channel, last=last: hub.position(channel) == last)  # type: ignore[misc]
                    hub.unsubscribe(recording, channel, format)
                (connection,) = redis._pubsub._plain
                await until(
                    lambda: (
                        not connection._wanted
                        and not connection._dispatcher.pending_unsubscribes
                        and not len(channels._lifecycles)
                        and not channels._channels
                    )
                )
                with redis_server.client() as admin:
                    names = [client["name"] for client in admin.client_list(_type="pubsub")]
                assert names == ["relay"]
                nursery.cancel_scope.cancel()


async def test_a_server_that_leaves_the_cluster_is_not_closed_under_its_users(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    with RedisServer(tmp_path, "--save", "") as other:
        async with service(redis_server.url.replace("redis:", "redis+cluster:").removesuffix("/0")) as redis:
            servers, answers = redis._servers, 0
            assert isinstance(servers, ClusterServers)
            redis._commands._is_stale = False  # a cluster of one that changes places, of which the servers know nothing

            async def ask(number: int) -> None:
                nonlocal answers
                while answers < 2000:
                    call = script_calls.clock_call()._replace(keys=[f"relay:{{{number}}}:k"])
                    assert await redis.run_calls([call])
                    answers += 1

            async with trio.open_nursery() as nursery:
                for turn in itertools.count():
                    place = ("127.0.0.1", (redis_server, other)[turn % 2].port)
                    await redis._loop.run_aio_coroutine(servers._take([(0, 16383, place)]))
                    if not turn:
                        for number in range(12):
                            nursery.start_soon(ask, number)
                    if answers >= 2000:
                        break
                    await trio.sleep(0.01)
        assert turn > 10
        for server in (redis_server, other):
            with server.client() as admin:
                await until(lambda admin=admin: len(admin.client_list()) == 1)  # type: ignore[misc]


async def test_a_handler_that_takes_itself_away_does_not_cost_the_next_its_message(redis_server: RedisServer) -> None:
    received: list[str] = []
    async with service(redis_server.url) as redis:

        def once(_: str, message: bytes) -> None:
            received.append(f"once {message.decode()}")
            end()

        end = redis.subscribe_raw("a", once)
        redis.subscribe_raw("a", lambda _, message: received.append(f"always {message.decode()}"))
        async with listening(redis):
            redis_server.publish("a", "1")
            redis_server.publish("a", "2")
            await until(lambda: "always 2" in received)
    assert received == ["once 1", "always 1", "always 2"]


async def test_a_server_that_does_not_answer_is_unavailable_within_the_deadline(redis_server: RedisServer) -> None:
    async with service(redis_server.url, redis_timeout=0.3) as redis:
        await redis.ping()
        redis_server.freeze()
        try:
            for call in (redis.ping, partial(redis.publish, "a", b"x"), partial(redis.publish_task_update, "t", {})):
                started = monotonic()
                with pytest.raises(BrokerUnavailable, match=r"0\.3|[Tt]ime"):
                    await call()
                assert 0.2 < monotonic() - started < 1.5
        finally:
            redis_server.thaw()
        await redis.ping()


async def test_a_server_that_is_not_there_is_unavailable_at_once(redis_server: RedisServer) -> None:
    redis_server.kill()
    async with service(redis_server.url) as redis:  # opening it does not connect
        started = monotonic()
        with pytest.raises(BrokerUnavailable, match=f"cannot be reached.*{redis_server.port}"):
            await redis.ping()
        assert monotonic() - started < 1.5
        redis_server.start()
        await redis.ping()


async def test_a_wrong_password_is_named_and_not_shown(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.config_set("requirepass", SECRET)
    host = redis_server.url.removeprefix("redis://")
    for url in (f"redis://:wr0ng-one@{host}", redis_server.url):
        async with service(url) as redis:
            with pytest.raises(BrokerError, match=r"(?i)WRONGPASS|password|auth") as caught:
                await redis.ping()
            assert "wr0ng-one" not in str(caught.value)
    settings: Any = RedisSettings
    right = settings(_env_file=None, host="127.0.0.1", port=redis_server.port, password=SECRET).configured_url()
    async with service(right) as redis:
        await redis.ping()


async def test_what_the_server_forbids_is_refused_with_its_reason(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "+@all", "-publish", "allchannels", "allkeys")
    host = redis_server.url.removeprefix("redis://")
    async with service(f"redis://reader:pw@{host}") as redis:
        await redis.ping()
        with pytest.raises(BrokerRefused, match=r"(?i)permission.*publish"):
            await redis.publish("a", b"x")
        with pytest.raises(BrokerRefused, match=r"(?i)unknown.*command"):
            await redis.command("NONSENSE")


async def test_a_call_is_cancelled_at_once_and_the_next_gets_its_own_answer(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.mset({"a": "of a", "b": "of b"})
    async with service(redis_server.url, redis_timeout=10.0) as redis:
        assert await redis.command("GET", "a") == b"of a"
        redis_server.freeze()
        try:
            started = monotonic()
            with trio.move_on_after(0.1) as scope:
                await redis.command("GET", "a")
            assert scope.cancelled_caught
            assert monotonic() - started < 1.5
        finally:
            redis_server.thaw()
        for _ in range(3):
            assert await redis.command("GET", "b") == b"of b"


async def test_calls_run_side_by_side(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.mset({f"k{number}": number for number in range(30)})
    answers: dict[int, Any] = {}

    async with service(redis_server.url) as redis, trio.open_nursery() as nursery:

        async def ask(number: int) -> None:
            answers[number] = await redis.command("GET", f"k{number}")

        for number in range(30):
            nursery.start_soon(ask, number)
    assert answers == {number: str(number).encode() for number in range(30)}
