"""The ingester on a Redis that is not ready for a while."""

from collections.abc import Sequence
from time import monotonic
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from redis.exceptions import RedisError
from relay_wire.publications import Retention, ScriptCall

from relay.broker.ingest_block import IngestBlock
from relay.broker.publish_ingester import PublishIngester
from relay.broker.script_calls import clock_call
from relay.core.errors import BrokerError, BrokerRefused, BrokerUnavailable
from relay.core.plain_order import BATCH_UPDATES
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


class Connection:
    """A connection to a server that takes calls at once. Answers are there when the test says so, or the connection fails.

    Attributes:
        started: The calls that were started, and not answered yet.
        has_answers: Whether the next look finds the answers.
        error: What the next look finds instead.
        is_open: Whether calls can be started.
    """

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.started: Sequence[ScriptCall] = ()
        self.has_answers = True
        self.error: Exception | None = None
        self.is_open = True
        self.run: list[Sequence[ScriptCall]] = []

    def start(self, calls: Sequence[ScriptCall]) -> bool:
        if self.is_open:
            self.started = calls
        return self.is_open

    def poll(self) -> Sequence[Any] | None:
        if self.error is not None:
            self.started = ()
            raise self.error
        if not self.has_answers:
            return None
        calls, self.started = self.started, ()
        return [self._replica._answer(call) for call in calls]

    async def run_calls(self, calls: Sequence[ScriptCall]) -> list[Any]:
        if calls[0].script != clock_call().script:
            self.run.append(calls)
            self.started = ()
        return await self._replica.run_calls(calls)


class ImmediateIngester:
    """An ingester with a connection that takes calls at once, which holds nothing back any more."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.connection = Connection(replica)
        self.said: list[tuple[bytes, list[int]]] = []  # to other relays, with what was stored by then
        retention = Retention(1000, 60, 60, 60, 60, 1_000_000)
        self.ingester = PublishIngester(
            self.connection.run_calls, retention, False, self._publish, count, lambda _: None, lambda: None, lambda _: None,
            immediate_calls=self.connection,
        )  # fmt: skip

    async def _publish(self, _channel: str, message: bytes) -> int:
        self.said.append((message.split(b" ")[0], self.stored))
        return 1

    def receive(self, *numbers: int) -> None:
        for number in numbers:
            data = b'{"n":%d}' % number
            self.ingester.on_message(Update("task:t", "task_update", data, monotonic()), data)
        self.ingester.on_turn_end()

    @property
    def stored(self) -> list[int]:
        return [msgspec.json.decode(data)["n"] for data in self.replica.stored]

    async def settle(self) -> None:
        """Let its tasks do what there is to do, and know Redis' clock."""
        await trio.testing.wait_all_tasks_blocked(0.01)


@pytest.fixture
async def immediate(nursery: trio.Nursery) -> ImmediateIngester:
    ingester = ImmediateIngester(Replica(0, ERRORS["read-only"]))
    nursery.start_soon(ingester.ingester.run)
    await ingester.settle()
    ingester.receive(0)  # by the task, which reads the clock first
    await ingester.settle()
    assert ingester.connection.run
    ingester.connection.run.clear()
    return ingester


async def test_a_single_update_is_stored_without_a_turn_of_the_event_loop(immediate: ImmediateIngester) -> None:
    for number in (1, 2, 3):
        immediate.receive(number)
        assert immediate.connection.started
        immediate.receive()  # a later turn, which brings the update back
        assert not immediate.connection.started
    assert immediate.stored == [0, 1, 2, 3]
    await immediate.settle()
    assert immediate.connection.run == []


async def test_what_comes_before_the_answer_is_stored_behind_it(immediate: ImmediateIngester) -> None:
    immediate.connection.has_answers = False
    immediate.receive(1)
    first = immediate.connection.started
    immediate.receive(2)
    assert immediate.connection.started is first
    await immediate.settle()
    assert immediate.connection.run[0] is first
    assert immediate.stored == [0, 1, 2]


async def test_more_than_one_batch_is_left_to_the_task(immediate: ImmediateIngester) -> None:
    many = list(range(1, BATCH_UPDATES + 10))
    immediate.receive(*many)
    await immediate.settle()
    assert immediate.stored == [0, *many]


async def test_an_answer_that_no_turn_brings_is_awaited_after_a_tick(immediate: ImmediateIngester) -> None:
    immediate.connection.has_answers = False
    immediate.receive(1)
    started = immediate.connection.started
    await immediate.settle()
    assert immediate.connection.run == []
    with trio.fail_after(5):
        while not immediate.connection.run:  # noqa: ASYNC110 - nobody tells us
            await trio.sleep(0.05)
    assert immediate.connection.run[0] is started
    assert immediate.stored == [0, 1]


@pytest.mark.parametrize("error", [RedisError("gone"), OSError("reset")], ids=["redis", "os"])
async def test_calls_that_fail_are_run_again_before_what_came_later(
    immediate: ImmediateIngester, error: Exception
) -> None:
    immediate.receive(1)
    immediate.connection.error = error
    immediate.receive(2)
    immediate.connection.error = None
    assert immediate.stored == [0]
    await immediate.settle()
    assert immediate.stored == [0, 1, 2]


async def test_where_calls_cannot_be_started_the_task_runs_them(immediate: ImmediateIngester) -> None:
    immediate.connection.is_open = False
    immediate.receive(1)
    await immediate.settle()
    immediate.receive(2)
    await immediate.settle()
    assert immediate.stored == [0, 1, 2]
    assert len(immediate.connection.run) == 2


async def test_the_answer_to_another_relay_waits_for_what_was_begun(immediate: ImmediateIngester) -> None:
    immediate.connection.has_answers = False
    immediate.receive(1)
    immediate.ingester.on_barrier_message("", b"ask x-1 other")
    await immediate.settle()
    assert immediate.said[-1] == (b"done", [0, 1])


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
