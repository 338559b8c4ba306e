"""Many plain updates in one call of a script: for each the same as a call of its own, whatever becomes of the others."""

import random

import msgspec
import pytest
from relay_wire import keys, scripts
from relay_wire.creation import creation_options
from relay_wire.publications import Occurrence, Retention, ScriptCall

from relay.broker import script_calls
from relay.broker.ingest_block import IngestBlock
from relay.broker.ingest_calls import IngestCalls
from relay.broker.service import RedisBroker
from relay.core.errors import BadMessage, BrokerRefused
from relay.core.updates import Update
from tests.harness import RedisServer
from tests.integration.broker.durable import opened

RETENTION = Retention(max_state_bytes=200)
_TYPES = ("completed", "in_progress", "failed", "unheard of")


def drawn_update(draw: random.Random, prefix: str) -> tuple[Update, Occurrence]:
    """An update of one of a few tasks, or of other channels: it may end a task, begin it again, append, or be too large."""
    if draw.random() < 0.2:
        channel = draw.choice(["general", f"{prefix}jobs:task:x"])
        return Update(channel, "message", b'{"n":%d}' % draw.randrange(9), 0.0), occurrence(draw)
    fields: dict[str, object] = {"n": draw.randrange(9)}
    if draw.random() < 0.3:
        fields["status"] = draw.choice(_TYPES)
    if draw.random() < 0.3:
        fields["text"] = draw.choice([{"$append": "more"}, {"$append": 1}, "x" * draw.choice([1, 190]), None, "é\n"])
    options = creation_options(
        ["a"] if draw.random() < 0.1 else None, draw.choice("pq") if draw.random() < 0.1 else None
    )
    channel = f"task:{prefix}}}:task:{draw.randrange(3)}"
    return Update(channel, "task_update", msgspec.json.encode(fields), 0.0, options=options), occurrence(draw)


def occurrence(draw: random.Random) -> Occurrence:
    """One of a few digests, so that some have been recorded before."""
    return Occurrence(f"d{draw.randrange(100)}", draw.randrange(1, 3), 0, 30_000)


async def record(redis: RedisBroker, updates: list[tuple[Update, Occurrence]], *, at_once: bool) -> list[str]:
    """Record updates; what became of each, without the positions."""
    outcomes: list[str] = []
    for some in [updates] if at_once else [[each] for each in updates]:
        if at_once:
            batch = IngestCalls(RETENTION, 30_000, sharded=False)
            for update, which in some:
                batch.add(update, which)
            results = batch.results(await redis.run_calls(batch.calls()))
            outcomes += [str(result).partition(" script: ")[0] for result in results]
            continue
        update, which = some[0]
        try:
            (answer,) = await redis.run_calls([script_calls.ingest_call(update, which, RETENTION)])
        except BadMessage as error:
            outcomes.append(str(error))
            continue
        result = answer if isinstance(answer, Exception) else script_calls.read_result(answer)
        if isinstance(result, Exception):
            outcomes.append(str(result).partition(" script: ")[0])
        else:
            outcomes.append(str(-1 - result.previous if result.is_duplicate else result.previous))
    return outcomes


def recorded(server: RedisServer, prefix: str) -> dict[str, object]:
    """What Redis holds of the channels of a test, without times and epochs."""
    with server.client() as client:
        held: dict[str, object] = {}
        for channel in [f"task:{prefix}}}:task:{number}" for number in range(3)] + [f"{prefix}jobs:task:x"]:
            meta, log, state, *_ = keys.channel_keys(channel)
            held[channel.removeprefix(prefix)] = (
                client.hmget(meta, "top", "volume", "status", "owner", "parent", "run", "texts", "truncated"),
                [(each[0], each[1][b"type"], each[1][b"data"]) for each in client.xrange(log)],
                client.hgetall(state),
            )
    return held


@pytest.mark.parametrize("seed", range(4))
async def test_updates_in_one_call_are_recorded_as_if_each_had_its_own(seed: int, shared_redis: RedisServer) -> None:
    updates = [drawn_update(random.Random(f"{seed} {number}"), f"many{seed}") for number in range(250)]
    async with opened(shared_redis) as redis:
        alone = await record(redis, updates, at_once=False)
        expected = recorded(shared_redis, f"many{seed}")
        shared_redis.clear()
        assert await record(redis, updates, at_once=True) == alone
        assert recorded(shared_redis, f"many{seed}") == expected
        assert len(set(alone)) > 2


async def test_a_key_of_a_wrong_type_refuses_its_own_update_only(shared_redis: RedisServer) -> None:
    names = [f"one-call-{number}" for number in range(3)]
    batch = IngestCalls(RETENTION, 30_000, sharded=False)
    for name in names:
        batch.add(Update(f"task:{name}", "task_update", b'{"n":1}', 0.0), Occurrence("d", 1, 0, 30_000))
    async with opened(shared_redis) as redis:
        with shared_redis.client() as client:
            client.set(keys.log(f"task:{names[1]}"), "no stream")
        results = batch.results(await redis.run_calls(batch.calls()))
        assert (results[0], results[2]) == (0, 0)
        assert isinstance(results[1], BrokerRefused)
        assert "WRONGTYPE" in str(results[1])
        with shared_redis.client() as client:
            assert [client.exists(keys.meta(f"task:{name}")) for name in names] == [1, 0, 1]


async def test_a_task_that_begins_again_and_again_in_one_call_has_an_epoch_for_each_life(
    shared_redis: RedisServer,
) -> None:
    batch = IngestCalls(RETENTION, 30_000, sharded=False)
    epochs = []
    async with opened(shared_redis) as redis:
        with shared_redis.client() as client:
            pubsub = client.pubsub()
            pubsub.subscribe(keys.pubsub_channel("task:lives"))
            assert pubsub.get_message(timeout=5)
            for number in range(3):
                for status in (b"in_progress", b"completed"):
                    batch.add(
                        Update("task:lives", "task_update", b'{"status":"%b"}' % status, 0.0),
                        Occurrence(f"{status!r}{number}", 1, 0, 30_000),
                    )
            assert batch.results(await redis.run_calls(batch.calls())) == [0] * 6
            for _ in range(6):
                message = pubsub.get_message(ignore_subscribe_messages=True, timeout=5)
                epochs.append(message["data"].split(b" ")[0])
            pubsub.close()
    assert epochs[::2] == epochs[1::2]
    assert len(set(epochs)) == 3


def count_of(call: ScriptCall) -> int | None:
    """How many updates a call records; None for a call of another script."""
    return len(msgspec.msgpack.decode(call.values[-1])) if call.script is scripts.load("ingest_many") else None


def test_a_call_is_bounded_in_updates_and_bytes() -> None:
    for size, count in ((1, IngestBlock.MAX_COUNT), (IngestBlock.MAX_SIZE // 2, 2)):
        batch = IngestCalls(RETENTION, 30_000, sharded=False)
        for number in range(3 * count):
            data = b'{"x":"%b"}' % (b"y" * size)
            batch.add(Update("general", "general_update", data, 0.0), Occurrence(f"d{number}", 1, 0, 30_000))
        calls = batch.calls()
        assert [count_of(call) for call in calls] == [count] * 3


def test_what_creates_a_task_keeps_its_place_between_the_others() -> None:
    batch = IngestCalls(RETENTION, 30_000, sharded=False)
    announcement = b'{"type":"task_created","task_info":{"task_id":"new","n":1}}'
    updates = [
        Update("task:a", "task_update", b"{}", 0.0),
        Update("general", "general_update", announcement, 0.0),
        Update("task:a", "task_update", b"[]", 0.0),
        Update("task:new", "task_update", b"{}", 0.0),
    ]
    for number, update in enumerate(updates):
        batch.add(update, Occurrence(f"d{number}", 1, 0, 30_000))
    calls: list[ScriptCall] = list(batch.calls())
    assert [count_of(call) for call in calls] == [2, None, 1]
    results = batch.results([[0, 1], [b"epoch", 1, 0, 0, 0], [2]])
    assert results[:2] == [0, 1]
    assert isinstance(results[2], BadMessage)
    assert results[3] == 2


@pytest.mark.parametrize("answer", [None, 1, [], [0], [0, b"x"], [0, None], {}])
def test_an_answer_of_another_form_is_a_refusal(answer: object) -> None:
    batch = IngestCalls(RETENTION, 30_000, sharded=False)
    for number in range(2):
        batch.add(Update("general", "message", b"{}", 0.0), Occurrence(f"d{number}", 1, 0, 30_000))
    batch.calls()
    assert isinstance(batch.results([answer])[1], BrokerRefused)
