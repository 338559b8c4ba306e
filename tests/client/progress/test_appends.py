"""What is appended to a task's fields: joined while it waits, sent once, and whole where Redis has lost it."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relay_client.errors import DeliveryRefused, DeliveryTimedOut
from relay_client.field_operations import apply_update
from relay_client.progress.appends import Appends
from relay_client.publishing.call import Call
from relay_client.updates import Updates
from relay_wire.publications import Retention

UPDATES = Updates(Retention(), sharded=False, max_bytes=1 << 20)


class FakeRedis:
    """Takes calls once for each idempotency key, and folds them as the script does."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self.keys: set[str] = set()

    def take(self, call: Call) -> None:
        key, values = call.keys[-1], call.values
        if key in self.keys:
            return
        self.keys.add(key)
        for name, value in zip(values[18::2], values[19::2], strict=True):
            text = value.decode()
            data = json.loads(text.lstrip("+="))
            self.fields = apply_update(self.fields, {name: {"$append": data} if text.startswith("+") else data})


OUTCOME = st.sampled_from(["delivered", "answer lost", "lost", "lost task"])


@given(
    st.lists(st.tuples(st.lists(st.tuples(st.sampled_from("ab"), st.text("xyz", max_size=3))), OUTCOME), max_size=12)
)
@settings(deadline=None)
def test_each_piece_is_appended_once_whatever_becomes_of_calls(rounds: list[Any]) -> None:
    redis, appends = FakeRedis(), Appends()
    expected: dict[str, str] = {}
    for pieces, outcome in [*rounds, ([], "delivered"), ([], "delivered")]:
        for name, piece in pieces:
            appends.add(name, piece)
            expected[name] = expected.get(name, "") + piece
        calls = appends.take("t", UPDATES)
        for call in calls:
            if outcome != "lost":
                redis.take(call)
            if outcome in ("delivered", "lost task"):
                call.settle(None, None)
            else:
                call.settle(None, DeliveryTimedOut("away", may_have_arrived=True))
        if outcome == "delivered":
            appends.acknowledged()
        elif outcome == "lost task":
            redis.fields = {}
            appends.requeue_all()
        else:
            appends.requeue()
    while calls := appends.take("t", UPDATES):
        for call in calls:
            redis.take(call)
        appends.acknowledged()
    assert redis.fields == {name: text for name, text in expected.items() if text}
    assert appends.failure is None
    assert not appends.has_pending()


def test_pieces_are_joined_and_long_ones_cut() -> None:
    appends = Appends()
    for _ in range(10):
        appends.add("text", "ab")
        appends.add("items", [1, {"x": 2}])
    (call,) = appends.take("t", UPDATES)
    assert call.values[18:] == ["text", b'+"%b"' % (b"ab" * 10), "items", b"+[%b]" % b",".join([b'1,{"x":2}'] * 10)]
    appends.acknowledged()
    appends.add("text", "x" * 200_000)
    sizes = []
    while calls := appends.take("t", UPDATES):
        sizes.append(len(calls[0].values[19]) - 3)
        appends.acknowledged()
    assert sum(sizes) == 200_000
    assert max(sizes) <= 80 * 1024


def test_a_field_that_redis_has_no_room_for_is_closed() -> None:
    appends = Appends()
    appends.add("text", "a")
    (call,) = appends.take("t", UPDATES)
    call.settle(None, DeliveryRefused("full"))
    appends.requeue()
    assert appends.take("t", UPDATES) == []
    assert isinstance(appends.failure, DeliveryRefused)
    with pytest.raises(ValueError, match="full"):
        appends.add("text", "b")
    appends.add("other", "b")
    assert appends.take("t", UPDATES)


def test_no_more_is_kept_than_a_state_may_have() -> None:
    appends, updates = Appends(), Updates(Retention(max_state_bytes=100), sharded=False, max_bytes=1 << 20)
    appends.add("text", "a" * 200)
    assert appends.take("t", updates) == []
    assert "RELAY_MAX_STATE_BYTES" in str(appends.failure)


def test_a_field_keeps_its_type() -> None:
    appends = Appends()
    appends.add("text", "a")
    with pytest.raises(TypeError):
        appends.add("text", [1])
    with pytest.raises(ValueError, match="appended to"):
        appends.plain({"text": "b"})
