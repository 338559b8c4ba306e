"""The subscriptions of a client, without a clock, a socket or a relay."""

import json
import math
import subprocess
import sys
from typing import Any

import pytest
from relay_client.subscriber import SubscriptionRefused, Update
from relay_client.subscriber.subscriptions import WINDOW, ProtocolError, Subscriptions

Message = dict[str, Any]


def requests(subscriptions: Subscriptions, now: float = 0.0) -> list[Message]:
    """All requests that are due."""
    due = []
    while (text := subscriptions.next_request(now)) is not None:
        due.append(json.loads(text))
    return due


def receive(subscriptions: Subscriptions, *messages: Message, now: float = 0.0) -> None:
    for message in messages:
        subscriptions.receive(json.dumps(message), now)


def taken(subscriptions: Subscriptions) -> list[Update]:
    updates = []
    while (update := subscriptions.pop()) is not None:
        updates.append(update)
    return updates


def at(offset: int, epoch: str = "e") -> Message:
    return {"epoch": epoch, "offset": offset}


def subscribed(
    task_id: str, offset: int, recovered: bool | None = None, epoch: str = "e", *, state: bool = False
) -> Message:
    resumed = {} if recovered is None else {"recovered": recovered}
    return {"type": "subscribed", "task_id": task_id, "position": at(offset, epoch), **resumed, "state": state}


def update(task_id: str, offset: int | None, epoch: str = "e", **data: Any) -> Message:
    position = {} if offset is None else {"position": at(offset, epoch)}
    return {"type": "task_update", "task_id": task_id, "data": data, **position}


PONG = {"type": "pong", "timestamp": "2026-01-01T00:00:00+00:00"}
UNAVAILABLE = {"type": "error", "code": "unavailable", "message": "Redis is away"}


def subscriber(*tasks: str, general: bool = False, **options: Any) -> Subscriptions:
    """Subscriptions that are connected and have unsubscribed from general updates."""
    subscriptions = Subscriptions(tasks, general=general, **options)
    subscriptions.on_connected()
    if not general:
        assert requests(subscriptions) == [{"type": "unsubscribe", "channel": "general"}]
        receive(subscriptions, {"type": "unsubscribed", "channel": "general"})
    return subscriptions


def reconnected(one: Subscriptions) -> list[Message]:
    """All requests of the next connection."""
    one.on_disconnected()
    one.on_connected()
    first = requests(one)
    receive(one, {"type": "unsubscribed", "channel": "general"})
    return first + requests(one)


def test_new_subscriber_gets_the_state_and_then_updates() -> None:
    one = subscriber("t")
    assert requests(one) == [{"type": "subscribe", "task_id": "t", "position": None, "deltas": True}]
    receive(one, subscribed("t", 2, state=True), update("t", 2, a=1, b=2), update("t", 3, b=3), update("t", None, c=4))
    state, second, third = taken(one)
    assert (state.data, state.state, state.is_state, state.position) == ({"a": 1, "b": 2}, state.data, True, ("e", 2))
    assert (second.data, second.state, second.is_state, second.task_id) == ({"b": 3}, {"a": 1, "b": 3}, False, "t")
    assert (third.state, third.position) == ({"a": 1, "b": 3, "c": 4}, None)
    assert json.loads(second.text) == update("t", 3, b=3)
    assert one.positions == {"task:t": ("e", 3)}
    assert one.states == {"task:t": {"a": 1, "b": 3, "c": 4}}


def test_without_a_state_the_answer_itself_gives_the_position() -> None:
    one = subscriber("t")
    requests(one)
    receive(one, subscribed("t", 0))
    assert one.is_established
    assert taken(one) == []
    assert one.positions == {"task:t": ("e", 0)}
    assert requests(one) == [], "nothing more is needed to know that"


def test_a_state_may_come_merged_with_newer_updates() -> None:
    """The relay merges what waits for a slow client."""
    one = subscriber("t")
    requests(one)
    receive(one, subscribed("t", 2, state=True), update("t", 4, a=1, b=4), update("t", 5, b=5))
    assert [(got.is_state, got.state) for got in taken(one)] == [(True, {"a": 1, "b": 4}), (False, {"a": 1, "b": 5})]


def test_general_updates_count_from_the_answer_on() -> None:
    """Before it they come without positions, since every client gets them."""
    one = subscriber(general=True)
    assert requests(one) == [{"type": "subscribe", "channel": "general", "position": None, "deltas": True}]
    plain = {"type": "general_update", "data": {"n": 1}}
    receive(one, plain, {"type": "subscribed", "channel": "general", "position": at(1), "state": False})
    assert one.is_established
    receive(one, {"type": "general_update", "data": {"n": 2}, "position": at(2)}, plain)
    assert [(got.data, got.state, got.task_id) for got in taken(one)] == [({"n": 2}, {}, None), ({"n": 1}, {}, None)]
    assert one.positions == {"general": ("e", 2)}
    assert one.states == {}


def test_received_updates_do_not_come_again() -> None:
    one = subscriber("t", positions={"task:t": ("e", 5)}, states={"task:t": {"a": 1}})
    assert requests(one)[0]["position"] == at(5)
    receive(one, subscribed("t", 7, recovered=True), update("t", 5, a=0), update("t", 6, b=6), update("t", 6, b=6))
    receive(one, update("t", 7, b=7))
    assert [(got.position, got.state) for got in taken(one)] == [
        (("e", 6), {"a": 1, "b": 6}),
        (("e", 7), {"a": 1, "b": 7}),
    ]


def test_a_channel_that_cannot_be_resumed_is_reset() -> None:
    one = subscriber("t", positions={"task:t": ("old", 5)}, states={"task:t": {"gone": 1}})
    requests(one)
    receive(one, subscribed("t", 1, recovered=False, state=True), update("t", 1, a=1))
    reset, state = taken(one)
    assert (reset.is_reset, reset.data, reset.state, reset.position) == (True, {}, {}, ("e", 1))
    assert (state.is_state, state.state) == (True, {"a": 1})
    receive(one, subscribed("t", 0, recovered=False, epoch="f"), update("t", 1, "f", b=2))
    reset, first = taken(one)
    assert reset.is_reset
    assert (first.is_state, first.state) == (False, {"b": 2})


def test_a_position_is_passed_on_only_with_its_state() -> None:
    """A consumer that stores positions and dies between the reset and the state must get the state."""
    one = subscriber("t", positions={"task:t": ("old", 5)})
    requests(one)
    receive(one, subscribed("t", 1, recovered=False, state=True))
    assert taken(one)[0].is_reset
    assert not one.is_established
    assert one.positions == {"task:t": ("old", 5)}
    receive(one, update("t", 1, a=1))
    assert taken(one)[0].is_state
    assert one.positions == {"task:t": ("e", 1)}


def test_a_connection_that_breaks_before_the_state_gets_it_on_the_next() -> None:
    one = subscriber("t")
    requests(one)
    receive(one, subscribed("t", 2, state=True))
    assert {"type": "subscribe", "task_id": "t", "position": None, "deltas": True} in reconnected(one)
    receive(one, subscribed("t", 2))
    assert {"type": "subscribe", "task_id": "t", "position": at(2), "deltas": True} in reconnected(one)


def test_a_reset_is_reported_once() -> None:
    one = subscriber("t", positions={"task:t": ("old", 5)})
    requests(one)
    receive(one, subscribed("t", 2, recovered=False, state=True))
    assert {"type": "subscribe", "task_id": "t", "position": None, "deltas": True} in reconnected(one)
    receive(one, subscribed("t", 2, state=True), update("t", 2, a=1))
    assert [(got.type, got.is_state) for got in taken(one)] == [("reset", False), ("task_update", True)]


def test_requests_go_one_by_one_until_the_relay_has_served_one() -> None:
    one = subscriber(*(f"t{number}" for number in range(2 * WINDOW)))
    assert [request["task_id"] for request in requests(one)] == ["t0"]
    receive(one, subscribed("t0", 0))
    assert [request["task_id"] for request in requests(one)] == [f"t{number}" for number in range(1, WINDOW + 1)]
    assert requests(one) == []


def test_while_redis_is_unavailable_requests_are_repeated_with_growing_delays() -> None:
    one = subscriber("t", "u", draw=lambda: 1.0)
    now = 0.0
    delays = []
    for _ in range(7):
        assert [request["type"] for request in requests(one, now)] == ["subscribe"]
        receive(one, UNAVAILABLE, now=now)
        assert requests(one, now) == []
        delays.append(one.wake_at(now) - now)
        now = one.wake_at(now)
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    requested = requests(one, now)[0]["task_id"]
    receive(one, subscribed(requested, 0), now=now)
    assert [request["type"] for request in requests(one, now)] == ["subscribe"]
    assert one.wake_at(now) == math.inf


def test_tasks_come_and_go() -> None:
    one = subscriber("t")
    requests(one)
    receive(one, subscribed("t", 1, state=True), update("t", 1, a=1))
    one.add("u")
    one.add("u")
    assert requests(one) == [{"type": "subscribe", "task_id": "u", "position": None, "deltas": True}]
    receive(one, subscribed("u", 0), update("u", 1, b=1))
    one.remove("t")
    one.remove("t")
    assert [got.task_id for got in taken(one)] == ["u"], "the waiting update of t is not wanted any more"
    one.add("t")
    receive(one, update("t", 2, a=2))  # sent before the relay knew
    assert [request["type"] for request in requests(one)] == ["unsubscribe", "subscribe"]
    receive(one, {"type": "unsubscribed", "task_id": "t"}, subscribed("t", 2, state=True), update("t", 2, a=2))
    assert [(got.task_id, got.is_state) for got in taken(one)] == [("t", True)]
    assert one.tasks == ["u", "t"]
    one.add("v")
    one.remove("v")
    assert requests(one) == [], "it was not requested yet"


def test_a_reset_from_before_a_new_subscription_is_not_its_answer() -> None:
    one = subscriber("t")
    requests(one)
    receive(one, subscribed("t", 1))
    one.remove("t")
    one.add("t")
    assert [request["type"] for request in requests(one)] == ["unsubscribe", "subscribe"]
    receive(one, subscribed("t", 0, recovered=False, epoch="f", state=True), update("t", 0, "f", a=1))
    receive(one, {"type": "unsubscribed", "task_id": "t"}, subscribed("t", 0, epoch="f"), update("t", 1, "f", a=2))
    assert [(got.type, got.state) for got in taken(one)] == [("task_update", {"a": 2})]


def test_a_ping_goes_before_other_requests() -> None:
    one = subscriber("t")
    one.request_ping()
    assert requests(one)[0] == {"type": "ping"}
    receive(one, PONG)


def test_the_queue_is_bounded_in_messages_and_in_characters() -> None:
    one = subscriber("t", max_waiting=3, max_waiting_size=1000)
    requests(one)
    receive(one, subscribed("t", 0))
    taken(one)
    full = [one.is_full]
    for offset in range(1, 4):
        receive(one, update("t", offset, n=1))
        full.append(one.is_full)
    one.pop()
    full.append(one.is_full)
    assert full == [False, False, False, True, False]
    receive(one, update("t", 4, text="x" * 1000))
    taken(one)
    receive(one, update("t", 5, text="x" * 1000))
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
        '{"type":"subscribed","task_id":"t","position":{"epoch":"e","offset":0}}',
        '{"type":"subscribed","task_id":"t","position":{"epoch":"e","offset":0},"state":1}',
        '{"type":"subscribed","position":{"epoch":"e","offset":0}}',
        '{"type":"task_update","task_id":"t","data":3}',
        '{"type":"task_update","task_id":"t","data":{},"position":{"epoch":"e"}}',
        '{"type":"task_update","task_id":"t","data":{},"position":{"epoch":"e","offset":Infinity}}',
        '{"type":"task_update","data":{}}',
        '{"type":"unsubscribed","task_id":"t"}',
        '{"type":"pong"}',
        b"binary",
        "[" * 100_000,
    ],
)
def test_unexpected_messages_are_protocol_errors(message: str | bytes) -> None:
    one = subscriber("t")
    requests(one)
    with pytest.raises(ProtocolError):
        one.receive(message, 0.0)


def test_another_epoch_needs_a_reset() -> None:
    one = subscriber("t")
    requests(one)
    receive(one, subscribed("t", 0), update("t", 1))
    with pytest.raises(ProtocolError, match="epoch"):
        receive(one, update("t", 2, "other"))


def test_the_state_must_be_of_the_epoch_that_was_announced() -> None:
    one = subscriber("t")
    requests(one)
    receive(one, subscribed("t", 2, state=True))
    with pytest.raises(ProtocolError, match="epoch"):
        receive(one, update("t", 2, "other"))


def test_messages_of_a_newer_relay_are_ignored() -> None:
    one = subscriber("t")
    receive(one, {"type": "weather", "data": {"sun": True}})
    assert taken(one) == []


def test_a_refusal_ends_the_subscription() -> None:
    one = subscriber("t", "u")
    requests(one)
    with pytest.raises(SubscriptionRefused, match=r"task:t.*too_many") as refused:
        receive(one, {"type": "error", "code": "too_many_subscriptions", "message": "unsubscribe from some"})
    assert (refused.value.code, refused.value.channel) == ("too_many_subscriptions", "task:t")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"tasks": "demo"}, "list"),
        ({"tasks": [""]}, "1 to 255"),
        ({"tasks": ["t" * 256]}, "1 to 255"),
        ({"tasks": [7]}, "1 to 255"),
        ({"positions": {"t": ("e", 1)}}, "are channels"),
        ({"positions": {"task:": ("e", 1)}}, "are channels"),
        ({"positions": {"task:t": ("", 1)}}, "epoch"),
        ({"positions": {"task:t": ("e" * 65, 1)}}, "epoch"),
        ({"positions": {"task:t": ("e", -1)}}, "offset"),
        ({"positions": {"task:t": ("e", "1")}}, "offset"),
        ({"states": {"t": {}}}, "are channels"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Subscriptions(**options)


CONTEXT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def trace_of(task_id: str, offset: int, epoch: str = "e", context: str = CONTEXT) -> Message:
    return {"type": "trace", "task_id": task_id, "position": at(offset, epoch), "traceparent": context}


def test_a_trace_context_belongs_to_the_update_at_its_position() -> None:
    subscriptions = subscriber("t", "u")
    requests(subscriptions)
    receive(subscriptions, subscribed("t", 0))
    requests(subscriptions)
    receive(
        subscriptions,
        subscribed("u", 0),
        trace_of("t", 2),
        update("t", 1, n=1),
        update("u", 2, n=1),
        update("t", 2, n=2),
        update("t", 3, n=3),
        trace_of("t", 4),
        trace_of("t", 5),
        update("t", 6, n=6),  # merged of several
        trace_of("t", 7, "another life"),
        update("t", 7, n=7),
        trace_of("t", 8, context="00-malformed"),
        update("t", 8, n=8),
        trace_of("not followed", 1),
    )
    # Without a provider of spans, the context of the relay's is passed on.
    assert [each.data["n"] for each in taken(subscriptions) if each.traceparent == CONTEXT] == [2, 6]


def test_only_programs_that_export_spans_ask_for_trace_contexts() -> None:
    program = (
        "import sys\n"
        "from relay_client.subscriber.subscriptions import Subscriptions\n"
        "def asked():\n"
        "    subscriptions = Subscriptions(['t'], general=True)\n"
        "    subscriptions.on_connected()\n"
        "    return 'traces' in subscriptions.next_request(0.0)\n"
        "print(asked(), 'opentelemetry' in sys.modules)\n"
        "from opentelemetry import trace\n"
        "print(asked())\n"
        "trace.set_tracer_provider(trace.NoOpTracerProvider())  # an application's own\n"
        "print(asked())\n"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "False", "False", "True"]
