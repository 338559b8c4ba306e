"""Fields that append, on a real Valkey: whatever the order of updates, the state is what a careful reader would fold."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis as redis_py
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from relay_wire import keys, publications
from relay_wire.publications import Occurrence, PublishResult, Retention, ScriptCall

from relay.broker import script_calls
from relay.core.recovery import Snapshot
from relay.core.updates import Position, Update
from tests.harness import RedisServer

RETENTION = Retention()


class Channel:
    """The calls of one task, run on one server."""

    def __init__(self, client: redis_py.Redis, retention: Retention = RETENTION) -> None:
        self.client = client
        self.retention = retention
        self.number = 0

    def run(self, call: ScriptCall) -> Any:
        return self.client.eval(call.script.source, len(call.keys), *call.keys, *call.values)

    def publish(self, data: Any, *, plainly: bool = False, key: str | None = None) -> PublishResult:
        raw = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.number += 1
        if plainly:
            update = Update("task:t", "task_update", raw, 0.0)
            call = script_calls.ingest_call(update, Occurrence(f"d{self.number}", 1, 0, 30_000), self.retention)
        else:
            call = script_calls.publish_call("task:t", "task_update", raw, self.retention, idempotency_key=key)
        return publications.publish_result(self.run(call))

    def read(self, since: Position | None = None) -> Snapshot:
        answer = self.run(script_calls.read_call("task:t", since, self.retention, 1 << 22))
        snapshot = script_calls.read_snapshot("task:t", answer, 0.0)
        assert isinstance(snapshot, Snapshot)
        return snapshot

    def state(self) -> Any:
        state = self.read().state
        return None if state is None else json.loads(state.data)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis_py.Redis]:
    with RedisServer(tmp_path_factory.mktemp("redis"), "--save", "") as server, server.client() as client:
        yield client


@pytest.fixture
def channel(client: redis_py.Redis) -> Channel:
    client.flushall()
    return Channel(client)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
LIST: st.SearchStrategy[list[Any]] = st.lists(st.sampled_from([1, "]", "[", [], {"a": ["x"]}, None]), max_size=3)
NUMBER = st.one_of(st.integers(-(2**40), 2**40), st.floats(-1e6, 1e6, allow_nan=False))
VALUE = st.one_of(TEXT, LIST, NUMBER, st.none(), st.booleans(), st.just({"$append": 1}))


def spaced(value: Any) -> bytes:
    """JSON as another encoder might write it."""
    return json.dumps(value, ensure_ascii=False, separators=(" , ", " : ")).replace("[", "[ ").encode()


def appended(old: Any, delta: Any) -> Any:
    """What a field becomes, or NotImplemented where that is refused."""
    if old is None:
        return delta
    if isinstance(delta, int | float):
        is_number = isinstance(old, int | float) and not isinstance(old, bool)
        return float(old) + float(delta) if is_number else NotImplemented
    return old + delta if type(old) is type(delta) else NotImplemented


STEP = st.one_of(
    st.tuples(st.just("append"), st.sampled_from("abc"), st.one_of(TEXT, LIST, NUMBER)),
    st.tuples(st.just("append"), st.just("a"), TEXT),
    st.tuples(st.just("set"), st.sampled_from("abc"), VALUE),
    st.tuples(st.just("status"), st.just("status"), st.sampled_from(["completed", "in_progress"])),
)


@given(st.lists(st.tuples(STEP, st.booleans(), st.booleans()), max_size=25))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_state_is_what_was_appended(client: redis_py.Redis, steps: list[tuple[Any, bool, bool]]) -> None:
    client.flushall()
    channel = Channel(client)
    state: dict[str, Any] | None = None
    for (kind, name, value), plainly, is_spaced in steps:
        encoded = spaced if is_spaced and "[" not in str(value) else lambda each: json.dumps(each).encode()
        if kind == "status":
            data = {"status": value}
            begins = state is not None and state.get("status") == "completed" and value != "completed"
            state = {**({} if begins else state or {}), **data}
        elif kind == "set":
            is_lookalike = isinstance(value, dict)
            data = {name: {"$set": value} if is_lookalike else value}
            state = {**(state or {}), name: value}
        else:
            data = {name: {"$append": value}, "n": channel.number}
            result = appended((state or {}).get(name), value)
            if result is NotImplemented:
                with pytest.raises(redis_py.ResponseError, match="APPENDTYPE"):
                    channel.publish(encoded(data), plainly=plainly)
                continue
            state = {**(state or {}), name: result, "n": channel.number}
        channel.publish(encoded(data), plainly=plainly)
        found = channel.read().state
        assert found is not None
        literal = {each: {"$set": held} if isinstance(held, dict) else held for each, held in state.items()}
        assert json.loads(found.data) == literal
        assert found.has_operations == (literal != state)
    texts = set(client.scan_iter("*:text"))
    assert all(client.pttl(key) > 0 for key in texts)
    held: Any = client.hgetall(keys.state("task:t"))
    assert len(texts) == sum(value.startswith(b"+") for value in held.values())


def test_the_history_has_the_deltas_and_the_sums(channel: Channel) -> None:
    first = channel.publish({"text": {"$append": "a"}, "n": {"$append": 1}})
    channel.publish({"text": {"$append": "b"}})
    channel.publish({"n": {"$append": 0.5}})
    channel.publish({"text": {"$set": {"$append": "x"}}})
    entries = channel.read(Position(first.position.epoch, 0)).entries
    assert entries is not None
    assert [(json.loads(entry.data), entry.type, entry.has_operations) for entry in entries] == [
        ({"text": {"$append": "a"}, "n": 1}, "task_update", True),
        ({"text": {"$append": "b"}}, "task_update", True),
        ({"n": 1.5}, "task_update", False),
        ({"text": {"$set": {"$append": "x"}}}, "task_update", True),
    ]


def test_an_idempotency_key_appends_once(channel: Channel) -> None:
    positions = {channel.publish({"text": {"$append": "a"}}, key="k").position for _ in range(3)}
    assert len(positions) == 1
    assert channel.state() == {"text": "a"}


@pytest.mark.parametrize("plainly", [False, True])
def test_what_does_not_fit_is_left_out_and_the_task_says_so(client: redis_py.Redis, plainly: bool) -> None:
    client.flushall()
    channel = Channel(client, Retention(max_state_bytes=1000))
    for _ in range(9):
        assert not channel.publish({"text": {"$append": "x" * 100}}, plainly=plainly).is_truncated
    result = channel.publish(
        {"text": {"$append": "y" * 100}, "status": "completed", "n": {"$append": 2}}, plainly=plainly
    )
    assert result.is_truncated
    assert channel.state() == {"text": "x" * 900, "status": "completed", "n": 2, "truncated": True}
    entries = channel.read(Position(result.position.epoch, result.position.offset - 1)).entries
    assert entries is not None
    assert json.loads(entries[0].data) == {"status": "completed", "n": 2, "truncated": True}
    with pytest.raises(redis_py.ResponseError, match="STATETOOLARGE"):
        channel.publish({"text": {"$append": "y" * 100}}, plainly=plainly)  # nothing of it is left
    assert channel.read().top == result.position
    channel.publish({"text": "short"}, plainly=plainly)
    assert not channel.publish({"text": {"$append": "er"}}, plainly=plainly).is_truncated
    assert channel.state()["text"] == "shorter"


def test_a_text_that_has_expired_or_was_evicted_is_not_continued(channel: Channel, client: redis_py.Redis) -> None:
    channel.publish({"text": {"$append": "a"}})
    before = channel.publish({"text": {"$append": "b"}}).position
    (key,) = client.scan_iter("*:text")
    client.delete(key)
    assert channel.state() is None
    after = channel.publish({"text": {"$append": "c"}}).position
    assert after.epoch != before.epoch
    assert channel.state() == {"text": "c"}
    assert channel.read(before).entries is None


def test_texts_are_bounded_in_number(channel: Channel) -> None:
    for number in range(32):
        channel.publish({f"t{number}": {"$append": "a"}})
        channel.publish({f"t{number}": {"$append": "a"}})
    channel.publish({"more": {"$append": "a"}})
    with pytest.raises(redis_py.ResponseError, match="32 fields"):
        channel.publish({"more": {"$append": "a"}})
    channel.publish({"t0": "replaced"})
    channel.publish({"more": {"$append": "a"}})
    assert channel.state()["more"] == "aa"
