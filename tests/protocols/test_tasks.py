"""The task protocol, to the letter: what frontends send and read today."""

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relay_wire.channels import MAX_NAME_LENGTH

from relay.core.channels import ChannelPatterns
from relay.core.closecodes import Close
from relay.core.recovery import Snapshot, SubscribeResult
from relay.core.updates import Position, Update
from relay.protocols.base import Command, End, Refusal, Reply, Subscribe, Unsubscribe
from relay.protocols.tasks import PLAIN, POSITIONED, TasksProtocol
from tests.nesting import TOO_DEEP

NOON = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)


def protocol(*named: str) -> TasksProtocol:
    return TasksProtocol(ChannelPatterns(named), lambda: NOON)


def answer(message: str | bytes, *named: str) -> Command:
    (command,) = protocol(*named).receive(message)
    return command


def test_everyone_gets_general_updates_without_asking() -> None:
    (command,) = protocol().open()
    assert isinstance(command, Subscribe)
    assert (command.channel, list(command.answer(None))) == ("general", [])


@pytest.mark.parametrize(
    ("task_id", "channel", "answered"),
    [
        ('"t"', "task:t", b'"t"'),
        ("42", "task:42", b'"42"'),
        ('"a\\"\\u00e9/ "', 'task:a"é/ ', '"a\\"é/ "'.encode()),
    ],
)
def test_subscribing_and_unsubscribing_are_answered_with_the_task(task_id: str, channel: str, answered: bytes) -> None:
    command = answer(f'{{"type":"subscribe","task_id":{task_id}}}')
    assert isinstance(command, Subscribe)
    assert command.channel == channel
    assert list(command.answer(None)) == [b'{"type":"subscribed","task_id":%b}' % answered]
    command = answer(f'{{"task_id":{task_id}, "type":"unsubscribe", "unknown":[1]}}')
    assert isinstance(command, Unsubscribe)
    assert (command.channel, command.payload) == (channel, b'{"type":"unsubscribed","task_id":%b}' % answered)


def test_a_ping_is_answered_with_the_time() -> None:
    command = answer('{"type":"ping"}')
    assert isinstance(command, Reply)
    assert command.payload == b'{"type":"pong","timestamp":"2025-06-01T12:00:00+00:00"}'
    (now,) = TasksProtocol(ChannelPatterns()).receive('{"type":"ping"}')
    assert isinstance(now, Reply)
    sent = datetime.fromisoformat(msgspec.json.decode(now.payload)["timestamp"])
    assert abs((datetime.now(UTC) - sent).total_seconds()) < 60


@pytest.mark.parametrize("channel", ["general", "agent:x"])
def test_channels_that_are_served_can_be_followed_by_name(channel: str) -> None:
    command = answer(f'{{"type":"subscribe","channel":"{channel}"}}', "agent:*")
    assert isinstance(command, Subscribe)
    assert command.channel == channel
    assert list(command.answer(None)) == [b'{"type":"subscribed","channel":"%b"}' % channel.encode()]
    command = answer(f'{{"type":"unsubscribe","channel":"{channel}"}}', "agent:*")
    assert isinstance(command, Unsubscribe)
    assert command.payload == b'{"type":"unsubscribed","channel":"%b"}' % channel.encode()


MALFORMED = {
    "nothing": ("", "not_json"),
    "text": ("hello", "not_json"),
    "cut off": ('{"type":"ping"', "not_json"),
    "half a surrogate pair": ('{"type":"subscribe","task_id":"\\ud800"}', "not_json"),
    "array": ('["ping"]', "wrong_type"),
    "number": ("1", "wrong_type"),
    "no type": ('{"task_id":"t"}', "wrong_type"),
    "type null": ('{"type":null}', "unknown_type"),
    "type a list": ('{"type":["ping"]}', "unknown_type"),
    "a long type": ('{"type":"%s"}' % ("x" * 10_000), "unknown_type"),
    "unknown type": ('{"type":"shout"}', "unknown_type"),
    "type in capitals": ('{"type":"PING"}', "unknown_type"),
    "no task_id": ('{"type":"subscribe"}', "missing_task_id"),
    "no task_id to leave": ('{"type":"unsubscribe"}', "missing_task_id"),
    "task_id null": ('{"type":"subscribe","task_id":null}', "missing_task_id"),
    "task_id a float": ('{"type":"subscribe","task_id":1.5}', "wrong_type"),
    "task_id a boolean": ('{"type":"subscribe","task_id":true}', "wrong_type"),
    "task_id a list": ('{"type":"subscribe","task_id":["t"]}', "wrong_type"),
    "task_id with more digits than Python turns into text": (
        '{"type":"subscribe","task_id":%s}' % ("1" * 5000),
        "wrong_type",
    ),
    "task_id empty": ('{"type":"subscribe","task_id":""}', "missing_task_id"),
    "task_id too long": ('{"type":"subscribe","task_id":"%s"}' % ("x" * (MAX_NAME_LENGTH + 1)), "bad_task_id"),
    "channel not served": ('{"type":"subscribe","channel":"secret"}', "unknown_channel"),
    "channel too long": ('{"type":"subscribe","channel":"agent:%s"}' % ("x" * MAX_NAME_LENGTH), "unknown_channel"),
    "a task by its channel": ('{"type":"subscribe","channel":"task:t"}', "unknown_channel"),
    "position a number": ('{"type":"subscribe","task_id":"t","position":7}', "wrong_type"),
    "position without an epoch": ('{"type":"subscribe","task_id":"t","position":{"offset":7}}', "wrong_type"),
    "position with a text as offset": (
        '{"type":"subscribe","task_id":"t","position":{"epoch":"e","offset":"7"}}',
        "wrong_type",
    ),
    "position before the first": (
        '{"type":"subscribe","task_id":"t","position":{"epoch":"e","offset":-1}}',
        "bad_position",
    ),
    "position beyond all": (
        '{"type":"subscribe","task_id":"t","position":{"epoch":"e","offset":9007199254740993}}',
        "bad_position",
    ),
    "position with a long epoch": (
        '{"type":"subscribe","task_id":"t","position":{"epoch":"%s","offset":1}}' % ("e" * 65),
        "bad_position",
    ),
    "nested too deep": ('{"type":"ping","x":' + "[" * TOO_DEEP + "]" * TOO_DEEP + "}", "too_deep"),
}


@pytest.mark.parametrize(("message", "code"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_input_is_answered_with_its_code_and_a_sentence(message: str, code: str) -> None:
    command = answer(message, "agent:*")
    assert isinstance(command, Refusal)
    assert command.code == code
    assert command.counts is (code not in ("unknown_type", "missing_task_id"))
    error = msgspec.json.decode(command.payload)
    expected = {"type": "error", "code": code, "message": error["message"]}
    if code == "unknown_channel":
        expected["channel"] = msgspec.json.decode(message)["channel"][:MAX_NAME_LENGTH]
    assert error == expected
    assert 10 < len(error["message"]) < 200


def test_binary_ends_the_session_whatever_it_says() -> None:
    assert answer(b'{"type":"ping"}') == End(Close.BINARY)
    assert Close.BINARY.code == 1003


@settings(deadline=None)
@given(
    st.text(max_size=80) | st.recursive(st.none() | st.text(), st.lists).map(lambda x: msgspec.json.encode(x).decode())
)
def test_no_text_raises(message: str) -> None:
    command = answer(message)
    if isinstance(command, Refusal):
        assert msgspec.json.decode(command.payload)["type"] == "error"


@settings(deadline=None)
@given(st.text(min_size=1, max_size=30))
def test_an_update_carries_the_id_that_was_subscribed_to(task_id: str) -> None:
    subscribed = answer(msgspec.json.encode({"type": "subscribe", "task_id": task_id}).decode())
    assert isinstance(subscribed, Subscribe)
    payload = PLAIN.encode(Update(subscribed.channel, "task_update", b"{}", 0.0))
    assert msgspec.json.decode(payload) == {"type": "task_update", "task_id": task_id, "data": {}}


def test_updates_go_out_with_their_data_as_published() -> None:
    data = b'{ "progress":40.0, "x":[ ] }'
    encode = PLAIN.encode
    assert (
        encode(Update("task:t", "task_update", data, 0.0)) == b'{"type":"task_update","task_id":"t","data":%b}' % data
    )
    assert encode(Update("general", "general_update", data, 0.0)) == b'{"type":"general_update","data":%b}' % data
    assert encode(Update("agent:x", "message", data, 0.0)) == data


def test_a_refusal_of_the_session_looks_like_any_other() -> None:
    refusal = protocol().refuse("too_many_subscriptions", 'the "limit"', "task:t")
    assert refusal.code == "too_many_subscriptions"
    assert (
        refusal.payload == b'{"type":"error","code":"too_many_subscriptions","message":"the \\"limit\\"","task_id":"t"}'
    )


TOP = Position("e", 9)
UPDATE = Update("task:t", "task_update", b'{"progress":40} ', 0.0, Position("e", 8))


def test_who_gives_no_position_sees_none() -> None:
    command = answer('{"type":"subscribe","task_id":"t"}')
    assert isinstance(command, Subscribe)
    assert (command.encoding, command.since, command.wants_history, command.requires_position) == (
        PLAIN,
        None,
        True,
        False,
    )
    for welcome in (None, SubscribeResult(TOP, None, ()), SubscribeResult(TOP, False, ())):
        assert list(command.answer(welcome)) == [b'{"type":"subscribed","task_id":"t"}']
    assert PLAIN.encode(UPDATE) == b'{"type":"task_update","task_id":"t","data":{"progress":40} }'
    assert list(PLAIN.reset("task:t", Snapshot(TOP, None, UPDATE))) == [PLAIN.encode(UPDATE)]
    assert list(PLAIN.reset("task:t", Snapshot(TOP, None, None))) == []


@pytest.mark.parametrize(
    ("position", "since", "recovered"),
    [
        ("null", None, None),
        ('{"epoch":"e","offset":7}', Position("e", 7), True),
        ('{"epoch":"gone","offset":0}', Position("gone", 0), False),
    ],
)
@pytest.mark.parametrize("updates", [(), (UPDATE,)], ids=["nothing follows", "an update follows"])
@pytest.mark.parametrize(
    ("words", "channel"),
    [('"task_id":"t"', "task:t"), ('"channel":"general"', "general"), ('"channel":"agent:x"', "agent:x")],
)
def test_who_gives_a_position_is_told_where_the_channel_stands(
    position: str,
    since: Position | None,
    recovered: bool | None,
    words: str,
    channel: str,
    updates: tuple[Update, ...],
) -> None:
    command = answer(f'{{"type":"subscribe",{words},"position":{position}}}', "agent:*")
    assert isinstance(command, Subscribe)
    assert (command.channel, command.since, command.encoding) == (channel, since, POSITIONED)
    assert command.wants_history
    assert command.requires_position
    (payload,) = command.answer(SubscribeResult(TOP, recovered, updates))
    expected = {"type": "subscribed", "position": {"epoch": "e", "offset": 9}, **msgspec.json.decode(f"{{{words}}}")}
    if recovered is not None:
        expected["recovered"] = recovered
    # What follows is the state, unless it is what the client has missed.
    expected["state"] = bool(updates) and recovered is not True
    assert msgspec.json.decode(payload) == expected


def test_updates_carry_their_position_for_those_who_asked() -> None:
    seen = {"epoch": "e", "offset": 8}
    assert msgspec.json.decode(POSITIONED.encode(UPDATE)) == {
        "type": "task_update",
        "task_id": "t",
        "data": {"progress": 40},
        "position": seen,
    }
    for type, channel in (("general_update", "general"), ("message", "agent:x")):
        for data in (b"{}", b' { "a" : 1 } ', b'{"a":{}}\n'):
            encoded = POSITIONED.encode(Update(channel, type, data, 0.0, Position("e", 8)))
            plain = msgspec.json.decode(PLAIN.encode(Update(channel, type, data, 0.0)))
            assert msgspec.json.decode(encoded) == {**plain, "position": seen}
    assert "position" not in msgspec.json.decode(POSITIONED.encode(Update("task:t", "task_update", b"{}", 0.0)))


def test_a_broken_line_is_told_with_the_state_that_there_is() -> None:
    told, state = POSITIONED.reset("task:t", Snapshot(TOP, None, UPDATE))
    assert msgspec.json.decode(told) == {
        "type": "subscribed",
        "task_id": "t",
        "position": {"epoch": "e", "offset": 9},
        "recovered": False,
        "state": True,
    }
    assert state == POSITIONED.encode(UPDATE)
    (alone,) = POSITIONED.reset("general", Snapshot(TOP, None, None))
    assert msgspec.json.decode(alone)["state"] is False
