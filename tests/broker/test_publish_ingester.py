"""The ingester on a Redis that is not ready for a while."""

from collections.abc import Sequence
from time import monotonic
from typing import Any

import msgspec
import pytest
import trio
from relay_wire.publications import Retention, ScriptCall

from relay.broker.ingest_block import IngestBlock
from relay.broker.publish_ingester import PublishIngester
from relay.broker.script_calls import clock_call
from relay.core.errors import BrokerUnavailable
from relay.core.updates import Update


class Replica:
    """A server that refuses its first calls, and then is promoted, in the middle of a round trip if need be."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.stored: list[bytes] = []

    async def run_calls(self, calls: Sequence[ScriptCall]) -> list[Any]:
        await trio.lowlevel.checkpoint()
        return [self._answer(call) for call in calls]

    def _answer(self, call: ScriptCall) -> Any:
        if call.script == clock_call().script:
            return 1000
        if self.refusals:
            self.refusals -= 1
            return BrokerUnavailable("READONLY You can't write against a read only replica.")
        messages = msgspec.msgpack.decode(call.values[-1])
        self.stored += [message[2].encode() for message in messages]
        return [0] * len(messages)


async def publish(_channel: str, _message: bytes) -> int:
    return 1


async def count(_channel: str) -> int:
    return 1


@pytest.mark.parametrize("refusals", [0, 3, 4, 5])
async def test_a_replica_that_is_promoted_stores_everything_in_order(refusals: int, nursery: trio.Nursery) -> None:
    replica = Replica(refusals)
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
