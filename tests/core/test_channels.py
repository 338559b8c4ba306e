"""Reading what services publish: where it goes, and every way in which it can be wrong."""

import json
import math
import re
import tracemalloc
from time import process_time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relay_wire.channels import GENERAL, GENERAL_UPDATES, MAX_NAME_LENGTH, TASK_UPDATES

from relay.core.channels import ChannelPatterns, read_published, task_channel
from relay.core.errors import BadMessage
from relay.core.updates import Update
from tests.nesting import TOO_DEEP

#: JSON that any decoder but a lazy one would change: spaces, order, escapes, number forms, a repeated key.
ODD_DATA = '{ "b":1.0,"a" : 1e2,\n"a":100000000000000000001,"é":"\\u00e9\\/","e":[ ],"x":{}}'.encode()


def task_message(task_id: bytes = b'"t"', data: bytes = b"{}") -> bytes:
    return b'{"type":"task_update","task_id":%b,"data":%b,"timestamp":"2025-01-01T00:00:00Z"}' % (task_id, data)


@pytest.mark.parametrize("strict", [False, True])
def test_the_data_stays_the_very_bytes(strict: bool) -> None:
    task = read_published(TASK_UPDATES, task_message(data=ODD_DATA), 7.0, strict=strict)
    assert task == Update("task:t", "task_update", ODD_DATA, 7.0)
    message = b'{"data":%b,"type":"general_update"}' % ODD_DATA
    general = read_published(GENERAL_UPDATES, message, 7.0, strict=strict)
    assert general == Update(GENERAL, "general_update", ODD_DATA, 7.0)


@pytest.mark.parametrize("type", ["", '"type":"gossip",', '"type":"general_update",', '"type":null,', '"type":[1],'])
def test_the_redis_channel_says_where_a_message_goes(type: str) -> None:
    message = b'{%b"task_id":"t","data":{"a":1}}' % type.encode()
    assert read_published(TASK_UPDATES, message, 7.0) == Update("task:t", "task_update", b'{"a":1}', 7.0)
    assert read_published(GENERAL_UPDATES, message, 7.0) == Update(GENERAL, "general_update", b'{"a":1}', 7.0)
    if type != '"type":"general_update",':
        with pytest.raises(BadMessage):
            read_published(GENERAL_UPDATES, message, 7.0, strict=True)
    with pytest.raises(BadMessage):
        read_published(TASK_UPDATES, message, 7.0, strict=True)


@pytest.mark.parametrize("data", ["null", "5", '"Maintenance at noon"', "[1, 2]", "true"])
def test_a_general_update_may_carry_any_value_and_a_task_update_only_an_object(data: str) -> None:
    message = b'{"type":"general_update","task_id":"t","data": %b}' % data.encode()
    assert read_published(GENERAL_UPDATES, message, 7.0).data.strip() == data.encode()
    for channel, strict in ((GENERAL_UPDATES, True), (TASK_UPDATES, False)):
        with pytest.raises(BadMessage, match="must be a JSON object"):
            read_published(channel, message, 7.0, strict=strict)


def test_a_message_without_data_has_an_empty_object() -> None:
    assert read_published(TASK_UPDATES, b'{"task_id":"t"}', 7.0) == Update("task:t", "task_update", b"{}", 7.0)
    assert read_published(GENERAL_UPDATES, b"{}", 7.0) == Update(GENERAL, "general_update", b"{}", 7.0)
    with pytest.raises(BadMessage, match="must be a JSON object"):
        read_published(GENERAL_UPDATES, b'{"type":"general_update"}', 7.0, strict=True)


#: Values with floats, and with texts that look like what is replaced.
NUMBERS = st.recursive(
    st.floats() | st.sampled_from(["NaN", '"NaN', "\\", 'Infinity"', "-Infinity"]) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@given(NUMBERS)
def test_numbers_that_json_has_not_become_null_and_texts_stay(value: Any) -> None:
    message = json.dumps({"task_id": "t", "data": {"value": value}}, ensure_ascii=False).encode()
    data = read_published(TASK_UPDATES, message, 7.0).data
    assert msgspec.json.decode(data) == {"value": finite(value)}


def test_a_named_channel_carries_any_object_as_it_came() -> None:
    message = b' {"type": "community_agent_action", "data": %b, "task_id": [] }\r\n' % ODD_DATA
    assert read_published("community_agent:x", message, 7.0) == Update(
        "community_agent:x", "message", message.strip(), 7.0
    )


@pytest.mark.parametrize(
    ("task_id", "channel"),
    [
        (b"7", "task:7"),
        (b'"7"', "task:7"),
        (b"-1", "task:-1"),
        (b"123456789012345678901234567890", "task:123456789012345678901234567890"),
        (b'"\\u00e9 \xf0\x9f\x8e\x89"', "task:é 🎉"),
        (b'"%b"' % (b"x" * MAX_NAME_LENGTH), "task:" + "x" * MAX_NAME_LENGTH),
    ],
)
def test_task_ids_are_compared_as_strings(task_id: bytes, channel: str) -> None:
    assert read_published(TASK_UPDATES, task_message(task_id), 0.0).channel == channel


DEEP = b'{"a":' + b"[" * TOO_DEEP + b"]" * TOO_DEEP + b"}"

BAD_EVERYWHERE = {
    "empty": (b"", "not_json"),
    "text": (b"hello", "not_json"),
    "cut off": (task_message()[:-1], "not_json"),
    "something behind it": (task_message() + b" x", "not_json"),
    "byte order mark": (b"\xef\xbb\xbf" + task_message(), "not_json"),
    "a word that is no value": (task_message(data=b'{"a":nan}'), "not_json"),
    "control character in a string": (task_message(data=b'{"a":"\x01"}'), "not_json"),
    "1 MiB of text": (b"x" * 2**20, "not_json"),
    "1 MiB string": (b'"%b"' % (b"x" * 2**20), "wrong_type"),
    "null": (b"null", "wrong_type"),
    "array": (b"[%b]" % task_message(), "wrong_type"),
    "invalid UTF-8": (task_message(data=b'{"a":"\xff"}'), "invalid_utf8"),
    "invalid UTF-8 where no field is looked at": (b'{"type":"general_update","data":{},"z":"\xc0"}', "invalid_utf8"),
    "surrogate in UTF-8": (task_message(data=b'{"a":"\xed\xa0\x80"}'), "invalid_utf8"),
    "nested too deep": (task_message(data=DEEP), "too_deep"),
}
BAD_FROM_SERVICES = {
    "data null": (task_message(data=b"null"), "wrong_type"),
    "data a list": (task_message(data=b"[1]"), "wrong_type"),
    "data a text that looks like an object": (task_message(data=b'"{}"'), "wrong_type"),
    "no task_id": (b'{"type":"task_update","data":{}}', "missing_task_id"),
    "task_id null": (task_message(b"null"), "missing_task_id"),
    "task_id a float": (task_message(b"1.5"), "wrong_type"),
    "task_id a boolean": (task_message(b"true"), "wrong_type"),
    "task_id an object": (task_message(b"{}"), "wrong_type"),
    "task_id with more digits than Python turns into text": (task_message(b"1" * 5000), "wrong_type"),
    "task_id empty": (task_message(b'""'), "missing_task_id"),
    "task_id too long": (task_message(b'"%b"' % (b"x" * (MAX_NAME_LENGTH + 1))), "bad_task_id"),
    "task_id too many digits": (task_message(b"1" * (MAX_NAME_LENGTH + 1)), "bad_task_id"),
}


@pytest.mark.parametrize(("message", "code"), BAD_EVERYWHERE.values(), ids=BAD_EVERYWHERE)
@pytest.mark.parametrize("channel", [TASK_UPDATES, "named"])
def test_what_is_no_json_object_is_refused_on_every_channel(channel: str, message: bytes, code: str) -> None:
    with pytest.raises(BadMessage) as caught:
        read_published(channel, message, 0.0)
    assert caught.value.code == code
    assert len(caught.value.message) < 200  # it goes into a log line


@pytest.mark.parametrize(("message", "code"), BAD_FROM_SERVICES.values(), ids=BAD_FROM_SERVICES)
def test_what_has_the_wrong_form_is_refused_with_a_code(message: bytes, code: str) -> None:
    with pytest.raises(BadMessage) as caught:
        read_published(TASK_UPDATES, message, 0.0)
    assert caught.value.code == code
    assert len(caught.value.message) < 200
    assert read_published("named", message, 0.0).data == message  # an object like any other


@settings(deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_bytes_raise_anything_but_badmessage(message: bytes) -> None:
    for channel in (TASK_UPDATES, "named"):
        try:
            update = read_published(channel, message, 0.0)
        except BadMessage:
            continue
        assert isinstance(msgspec.json.decode(update.data), dict)


@settings(deadline=None)
@given(st.text(min_size=1, max_size=20), st.dictionaries(st.text(), st.integers() | st.text() | st.none()))
def test_what_a_service_encodes_arrives(task_id: str, data: dict[str, object]) -> None:
    message = msgspec.json.encode({"type": "task_update", "task_id": task_id, "data": data})
    update = read_published(TASK_UPDATES, message, 0.0)
    assert update.channel == task_channel(task_id)
    assert update.data == msgspec.json.encode(data)


def test_an_update_does_not_hold_on_to_the_message_it_came_in() -> None:
    tracemalloc.start()
    try:
        padding = b'{"pad":"%b",' % (b"x" * 2**20)
        update = read_published(TASK_UPDATES, padding + task_message()[1:], 0.0)
        del padding
        assert tracemalloc.get_traced_memory()[0] < 2**19
    finally:
        tracemalloc.stop()
    assert update.data == b"{}"


#: Beside real Valkey's `KEYS`, with which these were compared: in fnmatch several are different.
GLOBS = [
    ("agent:*", "agent:", True),
    ("agent:*", "agent:a:b\n", True),
    ("agent:*", "xagent:a", False),
    ("agent", "agent:a", False),
    ("a?", "ab", True),
    ("a?", "a", False),
    ("[ab]", "b", True),
    ("[a-c]", "b", True),
    ("[c-a]", "b", True),
    ("[^a]", "b", True),
    ("[^a]", "a", False),
    ("[!a]", "a", True),
    ("[!a]", "b", False),
    ("[", "[", False),
    (r"\*", "*", True),
    (r"\*", "a", False),
    (r"[\]]", "]", True),
    ("a.c", "abc", False),
    ("[a", "a", True),
    ("(", "(", True),
]


@pytest.mark.parametrize(("pattern", "name", "expected"), GLOBS)
def test_patterns_mean_what_they_mean_to_redis(pattern: str, name: str, expected: bool) -> None:
    assert (name in ChannelPatterns([pattern])) is expected


def test_named_channels_are_those_that_one_pattern_matches() -> None:
    named = ChannelPatterns(["agent:*", "news"])
    assert "news" in named
    assert "agent:x" in named
    assert "other" not in named
    assert "agent:" + "x" * MAX_NAME_LENGTH not in named
    assert "news" not in ChannelPatterns()


@pytest.mark.parametrize("stars", ["*", "**"])
def test_a_pattern_of_many_stars_is_matched_in_no_time(stars: str) -> None:
    """It is asked with what a client sends, and a client may send what nearly matches."""
    patterns = ChannelPatterns([stars.join("a" * 60) + stars + "b"])
    name = "a" * MAX_NAME_LENGTH
    started = process_time()
    for _ in range(100):
        assert name not in patterns
        assert name[:-1] + "b" in patterns
    assert process_time() - started < 1.0


@settings(max_examples=300)
@given(
    st.text(st.sampled_from("ab?*[]^-\\"), max_size=8),
    st.text(st.sampled_from("ab-]^*\\"), max_size=8),
)
def test_patterns_mean_what_redis_means_by_them(pattern: str, name: str) -> None:
    if pattern.endswith("\\") or re.search(r"\[[^\]]*$", pattern):
        return  # Redis reads beyond what a pattern like this says
    assert (name in ChannelPatterns([pattern])) == as_redis(pattern, name)


def as_redis(pattern: str, name: str) -> bool:
    """Redis' stringmatchlen (src/util.c), for patterns that are complete."""
    if not pattern:
        return not name
    first, rest = pattern[0], pattern[1:]
    if first == "*":
        return as_redis(rest, name) or (bool(name) and as_redis(pattern, name[1:]))
    if not name:
        return False
    if first == "?":
        return as_redis(rest, name[1:])
    if first == "[":
        negated = rest.startswith("^")
        rest = rest[negated:]
        found = False
        while rest and rest[0] != "]":
            if rest[0] == "\\" and len(rest) >= 2:
                found |= rest[1] == name[0]
                rest = rest[2:]
            elif len(rest) >= 3 and rest[1] == "-":
                low, high = sorted((rest[0], rest[2]))
                found |= low <= name[0] <= high
                rest = rest[3:]
            else:
                found |= rest[0] == name[0]
                rest = rest[1:]
        return found != negated and as_redis(rest[1:], name[1:])
    if first == "\\" and rest:
        first, rest = rest[0], rest[1:]
    return first == name[0] and as_redis(rest, name[1:])


def test_a_lone_surrogate_is_replaced_and_the_rest_of_the_update_arrives() -> None:
    """Python's encoder writes one for each byte of a file name that is not UTF-8."""
    data = {"file": "caf\udce9.txt", "pair": "\U0001f600", "text": "\\udce9 is no escape"}
    message = json.dumps({"type": "task_update", "task_id": "t", "data": data}).encode()
    assert b"\\udce9.txt" in message
    update = read_published("task_updates", message, 0.0)
    assert msgspec.json.decode(update.data) == {**data, "file": "caf\ufffd.txt"}


@given(st.text(st.characters(), max_size=50))
def test_every_text_that_python_encodes_arrives(text: str) -> None:
    message = json.dumps({"type": "task_update", "task_id": "t", "data": {"text": text}}).encode()
    expected = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert msgspec.json.decode(read_published("task_updates", message, 0.0).data) == {"text": expected}
