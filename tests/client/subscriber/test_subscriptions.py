"""The decisions of a subscriber, without a clock, a socket or a relay: a model of the relay stands on the other side."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relay_client.subscribe import RelayRefused, RelayUnreachable, SubscriptionRefused, Update
from relay_client.subscribing.reconnect import FINAL_CLOSE_CODES, GOOD_SECONDS, Ended, Reconnect, full_jitter
from relay_client.subscribing.subscriptions import WINDOW, Confused, Subscriptions

from relay.core.closecodes import Close

Message = dict[str, Any]


def requests(subscriptions: Subscriptions, now: float = 0.0) -> list[Message]:
    """All that it says now."""
    said = []
    while (text := subscriptions.next_request(now)) is not None:
        said.append(json.loads(text))
    return said


def hear(subscriptions: Subscriptions, *messages: Message, now: float = 0.0) -> None:
    for message in messages:
        subscriptions.receive(json.dumps(message), now)


def taken(subscriptions: Subscriptions) -> list[Update]:
    updates = []
    while (update := subscriptions.pop()) is not None:
        updates.append(update)
    return updates


def at(offset: int, epoch: str = "e") -> Message:
    return {"epoch": epoch, "offset": offset}


def subscribed(task_id: str, offset: int, recovered: bool | None = None, epoch: str = "e") -> Message:
    told = {} if recovered is None else {"recovered": recovered}
    return {"type": "subscribed", "task_id": task_id, "position": at(offset, epoch), **told}


def update(task_id: str, offset: int | None, epoch: str = "e", **data: Any) -> Message:
    position = {} if offset is None else {"position": at(offset, epoch)}
    return {"type": "task_update", "task_id": task_id, "data": data, **position}


PONG = {"type": "pong", "timestamp": "2026-01-01T00:00:00+00:00"}
UNAVAILABLE = {"type": "error", "code": "unavailable", "message": "Redis is away"}


def subscriber(*tasks: str, general: bool = False, **options: Any) -> Subscriptions:
    """One that is connected, and rid of its unsubscribe from general updates."""
    subscriptions = Subscriptions(tasks, general=general, **options)
    subscriptions.connected()
    if not general:
        assert requests(subscriptions) == [{"type": "unsubscribe", "channel": "general"}]
        hear(subscriptions, {"type": "unsubscribed", "channel": "general"})
    return subscriptions


def test_new_follower_gets_the_state_and_then_updates() -> None:
    one = subscriber("t")
    assert requests(one) == [{"type": "subscribe", "task_id": "t", "position": None}, {"type": "ping"}]
    hear(one, subscribed("t", 2), update("t", 2, a=1, b=2), PONG, update("t", 3, b=3), update("t", None, c=4))
    state, second, third = taken(one)
    assert (state.data, state.state, state.is_state, state.position) == ({"a": 1, "b": 2}, state.data, True, ("e", 2))
    assert (second.data, second.state, second.is_state, second.task_id) == ({"b": 3}, {"a": 1, "b": 3}, False, "t")
    assert (third.state, third.position) == ({"a": 1, "b": 3, "c": 4}, None)
    assert json.loads(second.text) == update("t", 3, b=3)
    assert one.positions == {"task:t": ("e", 3)}
    assert one.states == {"task:t": {"a": 1, "b": 3, "c": 4}}


def test_general_updates_count_from_the_answer_on() -> None:
    """Before it they come without positions: whoever connects gets them."""
    one = subscriber(general=True)
    assert requests(one) == [{"type": "subscribe", "channel": "general", "position": None}, {"type": "ping"}]
    plain = {"type": "general_update", "data": {"n": 1}}
    hear(one, plain, {"type": "subscribed", "channel": "general", "position": at(1)})
    assert one.is_settled  # there is no state to wait for
    hear(one, {"type": "general_update", "data": {"n": 2}, "position": at(2)}, plain)
    assert [(got.data, got.state, got.task_id) for got in taken(one)] == [({"n": 2}, {}, None), ({"n": 1}, {}, None)]
    assert one.positions == {"general": ("e", 2)}
    assert one.states == {}


def test_what_was_had_before_does_not_come_again() -> None:
    one = subscriber("t", positions={"task:t": ("e", 5)}, states={"task:t": {"a": 1}})
    assert requests(one)[0]["position"] == at(5)
    hear(one, subscribed("t", 7, recovered=True), update("t", 5, a=0), update("t", 6, b=6), update("t", 6, b=6))
    hear(one, update("t", 7, b=7))
    assert [(got.position, got.state) for got in taken(one)] == [
        (("e", 6), {"a": 1, "b": 6}),
        (("e", 7), {"a": 1, "b": 7}),
    ]


def test_a_line_that_cannot_be_resumed_is_told_and_the_state_begins_anew() -> None:
    one = subscriber("t", positions={"task:t": ("old", 5)}, states={"task:t": {"gone": 1}})
    requests(one)
    hear(one, subscribed("t", 1, recovered=False), update("t", 1, a=1), PONG)
    reset, state = taken(one)
    assert (reset.is_reset, reset.data, reset.state, reset.position) == (True, {}, {}, ("e", 1))
    assert (state.is_state, state.state) == (True, {"a": 1})
    hear(one, subscribed("t", 0, recovered=False, epoch="f"), PONG | {"type": "later"}, update("t", 1, "f", b=2))
    reset, first = taken(one)
    assert reset.is_reset
    assert (first.is_state, first.state) == (False, {"b": 2})


def test_a_reset_is_not_passed_on_as_a_position() -> None:
    """Who stores positions and dies between the reset and the state must get the state."""
    one = subscriber("t", positions={"task:t": ("old", 5)})
    requests(one)
    hear(one, subscribed("t", 1, recovered=False))
    assert taken(one)[0].is_reset
    assert one.positions == {"task:t": ("old", 5)}
    hear(one, PONG)  # so there is no state
    assert taken(one) == []
    assert one.positions == {"task:t": ("e", 1)}


def test_a_connection_that_breaks_before_the_state_gets_it_on_the_next() -> None:
    one = subscriber("t")
    requests(one)
    hear(one, subscribed("t", 2))
    one.disconnected()
    one.connected()
    assert {"type": "subscribe", "task_id": "t", "position": None} in _settle_general(one)
    hear(one, subscribed("t", 2), PONG)
    one.disconnected()
    one.connected()
    assert {"type": "subscribe", "task_id": "t", "position": at(2)} in _settle_general(one)


def test_a_reset_is_told_once() -> None:
    one = subscriber("t", positions={"task:t": ("old", 5)})
    requests(one)
    hear(one, subscribed("t", 2, recovered=False))
    one.disconnected()
    one.connected()
    assert {"type": "subscribe", "task_id": "t", "position": None} in _settle_general(one)
    hear(one, subscribed("t", 2), update("t", 2, a=1))
    assert [(got.type, got.is_state) for got in taken(one)] == [("reset", False), ("task_update", True)]


def _settle_general(one: Subscriptions) -> list[Message]:
    said = requests(one)
    hear(one, {"type": "unsubscribed", "channel": "general"})
    return said + requests(one)


def test_requests_go_one_by_one_until_the_relay_has_served_one() -> None:
    one = subscriber(*(f"t{number}" for number in range(2 * WINDOW)))
    assert [request["task_id"] for request in requests(one)] == ["t0"]
    hear(one, subscribed("t0", 0))
    assert [request["task_id"] for request in requests(one)] == [f"t{number}" for number in range(1, WINDOW + 1)]
    assert requests(one) == []


def test_while_redis_is_away_it_asks_again_with_growing_delays() -> None:
    one = subscriber("t", "u", draw=lambda: 1.0)
    now = 0.0
    delays = []
    for _ in range(7):
        assert len([request for request in requests(one, now) if request["type"] == "subscribe"]) == 1
        hear(one, UNAVAILABLE, now=now)
        assert requests(one, now) == []
        delays.append(one.wake_at(now) - now)
        now = one.wake_at(now)
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert one.was_only_unavailable
    asked = requests(one, now)[0]["task_id"]
    hear(one, subscribed(asked, 0), now=now)
    assert [request["type"] for request in requests(one, now)] == ["subscribe", "ping"]
    assert one.wake_at(now) == math.inf


def test_tasks_come_and_go() -> None:
    one = subscriber("t")
    requests(one)
    hear(one, subscribed("t", 1), update("t", 1, a=1), PONG)
    one.add("u")
    one.add("u")
    assert requests(one) == [{"type": "subscribe", "task_id": "u", "position": None}, {"type": "ping"}]
    hear(one, subscribed("u", 0), PONG, update("u", 1, b=1))
    one.remove("t")
    one.remove("t")
    assert [got.task_id for got in taken(one)] == ["u"], "what waited of t is not wanted any more"
    one.add("t")
    hear(one, update("t", 2, a=2))  # on its way before the relay knew
    assert [request["type"] for request in requests(one)] == ["unsubscribe", "subscribe", "ping"]
    hear(one, {"type": "unsubscribed", "task_id": "t"}, subscribed("t", 2), update("t", 2, a=2), PONG)
    assert [(got.task_id, got.is_state) for got in taken(one)] == [("t", True)]
    assert one.tasks == ["u", "t"]
    one.add("v")
    one.remove("v")
    assert requests(one) == [], "it was not even asked for"


@pytest.mark.parametrize("is_answered", [False, True])
def test_a_task_given_up_before_it_was_asked_for_leaves_none_before_it_uncertain(is_answered: bool) -> None:
    one = subscriber("t", "u")
    said = [one.next_request(0.0)]
    if is_answered:
        hear(one, subscribed("t", 2))
    one.remove("u")
    hear(one, *([] if is_answered else [subscribed("t", 2)]))
    assert not one.is_settled
    said += [json.dumps(request) for request in requests(one)]
    assert [json.loads(text)["type"] for text in said if text] == ["subscribe", "ping"]
    hear(one, PONG)
    assert one.is_settled


def test_a_silent_relay_is_asked() -> None:
    one = subscriber()
    one.beat()
    assert requests(one) == [{"type": "ping"}]
    hear(one, PONG)


def test_the_queue_is_bounded_in_messages_and_in_characters() -> None:
    one = subscriber("t", max_waiting=3, max_waiting_size=1000)
    requests(one)
    hear(one, subscribed("t", 0), PONG)
    taken(one)
    full = [one.is_full]
    for offset in range(1, 4):
        hear(one, update("t", offset, n=1))
        full.append(one.is_full)
    one.pop()
    full.append(one.is_full)
    assert full == [False, False, False, True, False]
    hear(one, update("t", 4, text="x" * 1000))
    taken(one)
    hear(one, update("t", 5, text="x" * 1000))
    full = [one.is_full]
    assert one.waiting == 1
    taken(one)
    full.append(one.is_full)
    assert full == [True, False]


@pytest.mark.parametrize(
    "message",
    [
        "nonsense",
        "[]",
        "{}",
        '{"type":"subscribed","task_id":"t"}',
        '{"type":"subscribed","position":{"epoch":"e","offset":0}}',
        '{"type":"task_update","task_id":"t","data":3}',
        '{"type":"task_update","task_id":"t","data":{},"position":{"epoch":"e"}}',
        '{"type":"task_update","data":{}}',
        '{"type":"unsubscribed","task_id":"t"}',
        '{"type":"pong"}',
        b"binary",
        "[" * 100_000,
    ],
)
def test_what_does_not_fit_is_given_up(message: str | bytes) -> None:
    one = subscriber("t")
    requests(one)
    with pytest.raises(Confused):
        one.receive(message, 0.0)


def test_another_epoch_must_be_told() -> None:
    one = subscriber("t")
    requests(one)
    hear(one, subscribed("t", 0), PONG, update("t", 1))
    with pytest.raises(Confused, match="epoch"):
        hear(one, update("t", 2, "other"))


def test_what_a_newer_relay_says_is_passed_over() -> None:
    one = subscriber("t")
    hear(one, {"type": "weather", "data": {"sun": True}})
    assert taken(one) == []


def test_refusals_end_it() -> None:
    one = subscriber("t", "u")
    requests(one)
    with pytest.raises(SubscriptionRefused, match=r"task:t.*too_many") as refused:
        hear(one, {"type": "error", "code": "too_many_subscriptions", "message": "unsubscribe from some"})
    assert (refused.value.code, refused.value.channel) == ("too_many_subscriptions", "task:t")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"tasks": "demo"}, "list"),
        ({"tasks": [""]}, "1 to 255"),
        ({"tasks": ["t" * 256]}, "1 to 255"),
        ({"tasks": [7]}, "1 to 255"),
        ({"positions": {"t": ("e", 1)}}, "by channel"),
        ({"positions": {"task:": ("e", 1)}}, "by channel"),
        ({"positions": {"task:t": ("", 1)}}, "epoch"),
        ({"positions": {"task:t": ("e" * 65, 1)}}, "epoch"),
        ({"positions": {"task:t": ("e", -1)}}, "offset"),
        ({"positions": {"task:t": ("e", "1")}}, "offset"),
        ({"states": {"t": {}}}, "by channel"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Subscriptions(**options)


# Coming back.


def test_final_codes_are_those_of_the_registry() -> None:
    assert {close.code for close in Close if not close.reconnect} == FINAL_CLOSE_CODES


def test_delays_are_drawn_from_nothing_to_a_doubling_step() -> None:
    assert [full_jitter(attempt, 0.5, 20.0, lambda: 1.0) for attempt in (0, 1, 2, 5, 6, 10_000)] == [
        0.5,
        1.0,
        2.0,
        16.0,
        20.0,
        20.0,
    ]
    assert full_jitter(6, 0.5, 20.0, lambda: 0.0) == 0.0


def reconnect(give_up_after: float = math.inf) -> Reconnect:
    return Reconnect(1.0, 8.0, give_up_after, 0.0, lambda: 1.0)


def test_only_a_good_connection_resets_the_delay() -> None:
    one = reconnect()
    delays = [one.delay_after(Ended("broke", lasted), 0.0) for lasted in (None, 0.0, 1.0, GOOD_SECONDS, None)]
    assert delays == [1.0, 2.0, 4.0, 1.0, 2.0]


@pytest.mark.parametrize("close", list(Close))
def test_close_codes_say_whether_to_come_back(close: Close) -> None:
    if close.reconnect:
        assert reconnect().delay_after(Ended("closed", 1.0, close.code), 0.0) == 1.0
    else:
        with pytest.raises(RelayRefused) as refused:
            reconnect().delay_after(Ended("closed", 1.0, close.code), 0.0)
        assert refused.value.code == close.code


def test_errors_that_were_redis_being_away_are_no_reason_to_stay_away() -> None:
    assert reconnect().delay_after(Ended("closed", 1.0, 1008, is_excused=True), 0.0) == 1.0


def test_a_wrong_address_is_told_unless_it_was_right_before() -> None:
    for ended in (Ended("not found", status=404), Ended("certificate", is_wrong=True)):
        with pytest.raises(RelayRefused):
            reconnect().delay_after(ended, 0.0)
        one = reconnect()
        one.delay_after(Ended("broke", 1.0), 0.0)
        assert one.delay_after(ended, 0.0) == 2.0
    for status in (403, 429, 500, 503):  # a relay that drains says 403
        assert reconnect().delay_after(Ended("refused", status=status), 0.0) == 1.0


def test_it_gives_up_after_so_long_without_a_connection() -> None:
    one = reconnect(give_up_after=10.0)
    assert one.delay_after(Ended("broke", 1.0), 100.0) == 1.0
    assert one.delay_after(Ended("no"), 109.5) == 0.5, "the last try comes when the time is up"
    with pytest.raises(RelayUnreachable, match="10 s"):
        one.delay_after(Ended("no"), 110.0)


# Every interleaving.

CHANNELS = ("general", "task:a", "task:b")


class ModelRelay:
    """What a relay with its Redis does, as far as one client can see. Update number n of an epoch sets n, and one of three
    fields."""

    HISTORY = 4

    def __init__(self) -> None:
        self.epoch = 0
        self.published: dict[str, list[Message]] = {name: [] for name in CHANNELS}
        self.states: dict[tuple[str, str, int], Message] = {(name, "e0", 0): {} for name in CHANNELS}
        self.wire: list[Message] = []
        self.followed: set[str] = {"general"}
        self.positioned: set[str] = set()

    def _top(self, name: str) -> Message:
        return at(len(self.published[name]), f"e{self.epoch}")

    def _say(self, name: str, data: Message, position: Message | None) -> None:
        words: Message = {"type": "general_update"}
        if name != "general":
            words = {"type": "task_update", "task_id": name[5:]}
        self.wire.append({**words, "data": data, **({"position": position} if position else {})})

    def _say_state(self, name: str) -> None:
        state = self.states[(name, f"e{self.epoch}", len(self.published[name]))]
        if name != "general" and state:
            self._say(name, state, self._top(name))

    def _words(self, name: str) -> Message:
        return {"channel": name} if name == "general" else {"task_id": name[5:]}

    def publish(self, name: str) -> None:
        line = self.published[name]
        before = self.states[(name, f"e{self.epoch}", len(line))]
        n = len(line) + 1
        line.append({"n": n, f"f{n % 3}": f"{self.epoch}.{n}"})
        self.states[(name, f"e{self.epoch}", n)] = before | line[-1]
        if name in self.followed:
            self._say(name, line[-1], self._top(name) if name in self.positioned else None)

    def lose_memory(self) -> None:
        self.epoch += 1
        for name in CHANNELS:
            self.published[name] = []
            self.states[(name, f"e{self.epoch}", 0)] = {}
            if name in self.positioned:
                answer = {"type": "subscribed", **self._words(name), "position": self._top(name), "recovered": False}
                self.wire.append(answer)

    def fold(self) -> None:
        """Fold what waits of each task, though not across an answer, each at the place of its last."""
        folded: list[Message] = []
        for message in self.wire:
            last = None
            if message["type"] == "task_update":
                for place in range(len(folded) - 1, -1, -1):
                    if folded[place]["type"] not in ("task_update", "general_update"):
                        break
                    if folded[place].get("task_id") == message["task_id"]:
                        last = folded.pop(place)
                        break
            folded.append(message if last is None else {**message, "data": last["data"] | message["data"]})
        self.wire = folded

    def cut(self) -> None:
        self.wire = []
        self.followed, self.positioned = {"general"}, set()

    def hear(self, request: Message) -> None:
        if request["type"] == "ping":
            self.wire.append(PONG)
            return
        name = f"task:{request['task_id']}" if "task_id" in request else request["channel"]
        self.followed.discard(name)
        self.positioned.discard(name)
        if request["type"] == "unsubscribe":
            self.wire.append({"type": "unsubscribed", **self._words(name)})
            return
        self.followed.add(name)
        self.positioned.add(name)
        answer = {"type": "subscribed", **self._words(name), "position": self._top(name)}
        since, line = request["position"], self.published[name]
        if since is None:
            self.wire.append(answer)
            self._say_state(name)
        elif since["epoch"] == f"e{self.epoch}" and len(line) - since["offset"] <= self.HISTORY:
            self.wire.append(answer | {"recovered": True})
            for offset in range(since["offset"] + 1, len(line) + 1):
                self._say(name, line[offset - 1], at(offset, f"e{self.epoch}"))
        else:
            self.wire.append(answer | {"recovered": False})
            self._say_state(name)


class Consumer:
    """Takes updates, and sees that each is what it must be."""

    def __init__(self, relay: ModelRelay, is_folded: bool) -> None:
        self._relay = relay
        self._is_folded = is_folded
        self._seen: dict[str, tuple[str, int]] = {}

    def take(self, got: Update | None) -> None:
        if got is None:
            return
        if got.is_reset:
            self._seen.pop(got.channel, None)
            return
        assert got.position is not None
        epoch, offset = got.position
        before = self._seen.get(got.channel)
        if before is not None:
            assert epoch == before[0], "an epoch began, and nobody told"
            assert offset > before[1], "not in order"
            assert self._is_folded or offset == before[1] + 1, "lost"
            assert not got.is_state
        self._seen[got.channel] = (epoch, offset)
        assert got.data["n"] == offset
        if got.channel != "general":
            assert got.state == self._relay.states[(got.channel, epoch, offset)]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from(CHANNELS)),
        st.tuples(st.just("ask"), st.integers(1, 5)),
        st.tuples(st.just("serve"), st.integers(1, 3)),
        st.tuples(st.just("deliver"), st.integers(1, 6)),
        st.tuples(st.just("take"), st.integers(1, 4)),
        st.tuples(st.just("cut"), st.none()),
        st.tuples(st.just("lose_memory"), st.none()),
        st.tuples(st.just("fold"), st.none()),
    ),
    max_size=80,
)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS, may_fold=st.booleans(), may_lose=st.booleans())
def test_each_update_once_and_in_order_or_a_reset(steps: list[tuple[str, Any]], may_fold: bool, may_lose: bool) -> None:
    relay = ModelRelay()
    one = Subscriptions(["a", "b"])
    one.connected()
    consumer = Consumer(relay, may_fold)
    asked: list[Message] = []

    def step(kind: str, what: Any) -> None:
        match kind:
            case "publish":
                relay.publish(what)
            case "ask":
                for _ in range(what):
                    text = one.next_request(0.0)
                    if text is not None:
                        asked.append(json.loads(text))
            case "serve":
                for request in asked[:what]:
                    relay.hear(request)
                del asked[:what]
            case "deliver":
                for message in relay.wire[:what]:
                    hear(one, message)
                del relay.wire[:what]
            case "take":
                for _ in range(what):
                    consumer.take(one.pop())
            case "cut":
                relay.cut()
                asked.clear()
                one.disconnected()
                one.connected()
            case "lose_memory" if may_lose:
                relay.lose_memory()
            case "fold" if may_fold:
                relay.fold()

    for kind, what in steps:
        step(kind, what)
    for _ in range(10):
        for kind in ("ask", "serve", "deliver", "take"):
            step(kind, 1000)
    assert one.is_settled
    assert one.positions == {name: (f"e{relay.epoch}", len(relay.published[name])) for name in CHANNELS}
    for name in ("task:a", "task:b"):
        assert one.states[name] == relay.states[(name, f"e{relay.epoch}", len(relay.published[name]))]
