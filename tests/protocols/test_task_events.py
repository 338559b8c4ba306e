"""The task protocol over an event stream: the subscriptions of the query, and the messages of `/ws/tasks` as events."""

import json
from collections.abc import Iterable

import pytest

from relay.core.channels import ChannelPatterns
from relay.core.errors import BadMessage
from relay.core.recovery import Snapshot, SubscribeResult
from relay.core.updates import Position, Update
from relay.protocols.base import Reply, Subscribe
from relay.protocols.task_events import TaskEventsProtocol
from relay.protocols.tasks import POSITIONED

TOP = Position("e", 2)


def protocol(query: object) -> TaskEventsProtocol:
    return TaskEventsProtocol(ChannelPatterns(("news",)), json.dumps(query))


def data(payloads: Iterable[bytes]) -> list[bytes]:
    """The data of events, as an event stream's reader joins it."""
    found = []
    for payload in payloads:
        assert payload.endswith(b"\n\n")
        lines = payload[:-2].split(b"\n")
        assert all(line.startswith(b"data: ") for line in lines)
        found.append(b"\n".join(line[6:] for line in lines))
    return found


def test_each_subscription_is_answered_as_on_a_websocket() -> None:
    query = [{"task_id": "t", "position": {"epoch": "e", "offset": 1}}, {"channel": "general"}, {"channel": "news"}]
    task, general, news = protocol(query).open()
    assert isinstance(task, Subscribe)
    assert isinstance(general, Subscribe)
    assert isinstance(news, Subscribe)
    assert (task.channel, task.since, task.requires_position) == ("task:t", Position("e", 1), True)
    assert (general.channel, general.since, general.requires_position) == ("general", None, True)
    [answer] = data(task.answer(SubscribeResult(TOP, True, [])))
    position = {"epoch": "e", "offset": 2}
    assert json.loads(answer) == {
        "type": "subscribed",
        "task_id": "t",
        "position": position,
        "recovered": True,
        "state": False,
    }


def test_updates_are_those_of_a_websocket_even_with_line_breaks() -> None:
    [command] = protocol([{"task_id": "t"}]).open()
    assert isinstance(command, Subscribe)
    update = Update("task:t", "task_update", b'{"a":\n1,\r\n"b":2}', 0.0, TOP)
    [event] = data([command.encoding.encode(update)])
    assert json.loads(event) == json.loads(POSITIONED.encode(update))
    reset = data(command.encoding.reset("task:t", Snapshot(TOP, None, update)))
    assert [json.loads(message)["type"] for message in reset] == ["subscribed", "task_update"]


def test_a_bad_subscription_is_an_error_and_no_end() -> None:
    commands = list(protocol([{"channel": "none"}, {"task_id": ""}, {"task_id": "t"}]).open())
    errors = [command for command in commands if isinstance(command, Reply)]
    assert [json.loads(message)["code"] for message in data(error.payload for error in errors)] == [
        "unknown_channel",
        "missing_task_id",
    ]
    assert isinstance(commands[2], Subscribe)


def test_what_the_session_says_is_an_event_too() -> None:
    events = protocol([{"task_id": "t"}])
    refused, rejected = events.refuse("unavailable", "Redis is away", "task:t"), events.reject("forbidden", "no")
    messages = [json.loads(message) for message in data([refused.payload, rejected.payload, events.expiry_notice(30)])]
    assert [(message["type"], message.get("code")) for message in messages] == [
        ("error", "unavailable"),
        ("error", "forbidden"),
        ("token_expires", None),
    ]
    assert messages[0]["task_id"] == "t"


@pytest.mark.parametrize("query", ["", "nonsense", "{}", "[]", "[1]", "[" * 10_000, "\udcff"])
def test_a_bad_query_is_refused(query: str) -> None:
    with pytest.raises(BadMessage, match="JSON list"):
        TaskEventsProtocol(ChannelPatterns(()), query)
