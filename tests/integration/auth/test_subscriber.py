"""The Python subscriber with tokens: it renews them without losing an update, and gives up where it may not come back."""

import time

import pytest
import trio
from relay_client.subscriber.errors import RelayRefused, SubscriptionRefused
from relay_client.subscriber.limits import ConnectionChange, Limits
from relay_client.trio import subscribe

from tests.conftest import StartRelay
from tests.harness import PATIENCE, RedisServer
from tests.integration.auth.tokens import SETTINGS, token

WATCH = {"tasks": ["demo"], "general": True}


async def test_a_token_is_renewed_without_a_lost_update(shared_redis: RedisServer, share_relay: StartRelay) -> None:
    relay = share_relay(**SETTINGS)
    made = 0

    async def fresh() -> str:
        nonlocal made
        made += 1
        await trio.lowlevel.checkpoint()
        return token(WATCH, seconds=2)

    changes: list[ConnectionChange] = []
    with trio.fail_after(PATIENCE):
        async with subscribe(relay.url, ["demo"], token=fresh, on_connection=changes.append) as updates:
            number = 0
            started = time.monotonic()
            while made < 4 or time.monotonic() - started < 3:
                number += 1
                shared_redis.publish_task("demo", n=number)
                assert (await anext(updates)).data["n"] == number
                await trio.sleep(0.05)
    assert [change.is_up for change in changes] == [True], "one connection, with all its tokens"


async def test_an_expired_token_is_replaced_on_the_next_connection(share_relay: StartRelay) -> None:
    relay = share_relay(**SETTINGS)
    tokens = iter([token(WATCH, seconds=-1), token(WATCH)])
    limits = Limits(retry_base=0.05, retry_cap=0.1)
    with trio.fail_after(PATIENCE):
        async with subscribe(relay.url, ["demo"], token=lambda: next(tokens), limits=limits) as updates:
            await updates.established()


@pytest.mark.parametrize("text", ["no token", token(WATCH) + "x"])
async def test_a_token_that_never_holds_ends_the_subscription(text: str, share_relay: StartRelay) -> None:
    relay = share_relay(**SETTINGS)
    with trio.fail_after(PATIENCE), pytest.raises(RelayRefused) as refused:
        async with subscribe(relay.url, ["demo"], token=text) as updates:
            await anext(updates)
    assert refused.value.code == 4403
    assert text not in str(refused.value)


async def test_a_task_outside_the_grant_ends_the_subscription(share_relay: StartRelay) -> None:
    relay = share_relay(**SETTINGS)
    with trio.fail_after(PATIENCE), pytest.raises(SubscriptionRefused) as refused:
        async with subscribe(relay.url, ["other"], token=token(WATCH)) as updates:
            await anext(updates)
    assert (refused.value.code, refused.value.channel) == ("forbidden", "task:other")
