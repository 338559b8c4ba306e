"""The ingester on a Redis that is not ready for a while."""

from collections.abc import Sequence
from time import monotonic
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from relay_wire.publications import Retention, ScriptCall

from relay.broker.ingest_block import IngestBlock
from relay.broker.publish_ingester import PublishIngester
from relay.broker.script_calls import clock_call
from relay.core.errors import BrokerError, BrokerRefused, BrokerUnavailable
from relay.core.updates import Update


class Replica:
    """A server that refuses its first calls, and then is promoted or has room, in the middle of a round trip if need be."""

    def __init__(self, refusals: int, error: BrokerError) -> None:
        self.refusals = refusals
        self.error = error
        self.stored: list[bytes] = []

    async def run_calls(self, calls: Sequence[ScriptCall]) -> list[Any]:
        await trio.lowlevel.checkpoint()
        return [self._answer(call) for call in calls]

    def _answer(self, call: ScriptCall) -> Any:
        if call.script == clock_call().script:
            return 1000
        if self.refusals:
            self.refusals -= 1
            return self.error
        messages = msgspec.msgpack.decode(call.values[-1])
        self.stored += [message[2].encode() for message in messages]
        return [0] * len(messages)


async def publish(_channel: str, _message: bytes) -> int:
    return 1


async def count(_channel: str) -> int:
    return 1


ERRORS = {"read-only": BrokerUnavailable("READONLY"), "full": BrokerRefused("OOM", is_out_of_memory=True)}


@pytest.mark.parametrize("refusals", [0, 3, 4, 5])
@pytest.mark.parametrize("error", ERRORS)
async def test_what_could_not_be_stored_for_a_moment_is_stored_in_order(
    error: str, refusals: int, nursery: trio.Nursery
) -> None:
    replica = Replica(refusals, ERRORS[error])
    delivered: list[Update] = []
    retention = Retention(1000, 60, 60, 60, 60, 1_000_000)
    stored = trio.Event()
    updates = [b'{"n":%d}' % number for number in range(3 * IngestBlock.MAX_COUNT)]

    def on_stored(_count: int) -> None:
        if len(replica.stored) == len(updates):
            stored.set()

    ingester = PublishIngester(
        replica.run_calls, retention, False, publish, count, delivered.append, lambda: None, on_stored
    )
    for data in updates:
        ingester.on_message(Update("task:t", "task_update", data, monotonic()), data)
    nursery.start_soon(ingester.run)
    await stored.wait()
    assert replica.stored == updates
    assert delivered == []


@pytest.mark.parametrize("is_away", [False, True])
async def test_one_that_ends_says_goodbye_and_does_not_wait_long_for_a_redis_that_is_away(
    is_away: bool, autojump_clock: trio.testing.MockClock
) -> None:
    said: list[bytes] = []

    async def publish_or_wait(_channel: str, message: bytes) -> int:
        said.append(message)
        if is_away:
            await trio.sleep_forever()
        return 1

    retention = Retention(1000, 60, 60, 60, 60, 1_000_000)
    replica = Replica(0, ERRORS["full"])
    ingester = PublishIngester(
        replica.run_calls, retention, False, publish_or_wait, count, lambda _: None, lambda: None, lambda _: None
    )
    began_at = trio.current_time()
    with trio.move_on_after(1.0):
        await ingester.run()
    assert [message.split(b" ")[0] for message in said] == [b"bye"]
    assert trio.current_time() - began_at == (1.5 if is_away else 1.0)
