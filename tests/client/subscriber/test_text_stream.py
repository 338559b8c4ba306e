"""A text that grows, in pieces: nothing twice, whatever comes between."""

from typing import Any

import pytest
from relay_client.field_operations import apply_update
from relay_client.subscriber.text_stream import TextStream, channel_of_stream
from relay_client.subscriber.update import Update
from relay_wire.position import Position


def update(state: dict[str, Any], kind: Any = "task_update", channel: str = "task:t") -> Update:
    return Update(channel, kind, {}, state, Position("e", 1), "")


def test_what_is_new_is_returned_once() -> None:
    stream = TextStream("task:t", "text")
    assert stream.feed(update({"text": "ab"})) == "ab"
    assert stream.feed(update({"text": "ab", "n": 1})) is None
    assert stream.feed(update({"text": "x"}, channel="task:u")) is None
    assert stream.feed(update({"text": "abc"})) == "c"
    # A reset, and then the state: only what was missed.
    assert stream.feed(update({}, "reset")) is None
    assert stream.feed(update({"text": "abcde"})) == "de"
    assert not stream.has_ended
    assert stream.feed(update({"text": "abcdef", "status": "completed"})) == "f"
    assert stream.has_ended


def test_a_text_that_was_replaced_begins_again() -> None:
    stream = TextStream("task:t", "text", "known ")
    first = stream.feed(update({"text": "known more"}))
    assert (first, first is not None and first.is_restart) == ("more", False)
    second = stream.feed(update({"text": "new"}))
    assert (second, second is not None and second.is_restart) == ("new", True)
    third = stream.feed(update({"text": None}))
    assert (third, third is not None and third.is_restart) == ("", True)


def test_the_task_is_named_where_it_is_not_clear() -> None:
    assert channel_of_stream(["t"], None) == "task:t"
    assert channel_of_stream(["t", "u"], "u") == "task:u"
    for tasks in ([], ["t", "u"]):
        with pytest.raises(ValueError, match="name the task"):
            channel_of_stream(tasks, None)


def test_an_update_is_applied_to_the_fields_that_there_are() -> None:
    fields = {"text": "a", "items": [1], "gone": None}
    data = {
        "text": {"$append": "b"},
        "items": {"$append": [2]},
        "gone": {"$append": "x"},
        "odd": {"$set": {"$append": 1}},
    }
    assert apply_update(fields, data) == {"text": "ab", "items": [1, 2], "gone": "x", "odd": {"$append": 1}}
    assert apply_update(fields, {"text": {"a": 1}}) == {**fields, "text": {"a": 1}}
    with pytest.raises(TypeError):
        apply_update(fields, {"text": {"$append": [1]}})
