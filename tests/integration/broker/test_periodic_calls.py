"""What is periodic shares a connection and a round trip: it does not share failures."""

import trio
from relay_wire import keys
from relay_wire.publications import ScriptCall
from relay_wire.scripts import Script

from relay.broker.opening import open_redis
from relay.config import RedisSettings, Settings
from relay.core.errors import BrokerError
from tests.conftest import StartRelay
from tests.harness import RedisServer, eventually

SETTINGS = Settings(_env_file=None)  # type: ignore[call-arg]
REDIS_SETTINGS = RedisSettings(_env_file=None)  # type: ignore[call-arg]

_WHO = Script.of("return ARGV[1]")
_WRONG = Script.of("return redis.call('NO-SUCH-COMMAND')")


async def test_each_gets_its_own_answer_and_a_refusal_is_nobody_elses(redis_server: RedisServer) -> None:
    answers: dict[int, list[object]] = {}

    async with open_redis(redis_server.url, SETTINGS, REDIS_SETTINGS) as redis:

        async def ask(number: int) -> None:
            script = _WRONG if number == 2 else _WHO
            answers[number] = await redis.periodic_calls([ScriptCall(script, [keys.NODES], [number])])

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for number in range(5):
                    nursery.start_soon(ask, number)
    assert isinstance(answers[2][0], BrokerError)
    assert [answers[number] for number in (0, 1, 3, 4)] == [[b"0"], [b"1"], [b"3"], [b"4"]]


async def test_one_that_is_cancelled_takes_no_other_along(redis_server: RedisServer) -> None:
    async with open_redis(redis_server.url, SETTINGS, REDIS_SETTINGS) as redis:
        with trio.fail_after(30):
            await redis.periodic_calls([ScriptCall(_WHO, [keys.NODES], ["first"])])
            redis_server.freeze()
            answers: list[object] = []

            async def ask() -> None:
                answers.extend(await redis.periodic_calls([ScriptCall(_WHO, [keys.NODES], ["kept"])]))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                with trio.move_on_after(0.1):
                    await redis.periodic_calls([ScriptCall(_WHO, [keys.NODES], ["cancelled"])])
                redis_server.thaw()
            assert answers == [b"kept"]


def test_a_probe_whose_connection_was_cut_goes_another_way(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay(redis_health_interval=0.25)
    with redis_server.client() as client:
        for _ in range(3):
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            probes = client.info("commandstats")["cmdstat_publish"]["calls"]
            eventually(
                lambda probes=probes: client.info("commandstats")["cmdstat_publish"]["calls"] > probes + 2  # type: ignore[misc]
            )
            assert relay.get("/readyz")[0] == 200
    assert relay.metric("relay_redis_reconnects_total") == 0
