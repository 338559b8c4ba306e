"""Values of updates: what is repaired, and what is refused where it is given."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from relay_client import Publisher
from relay_client.encoding import encode, encode_fields, join_fields, plain_copy
from relay_client.updates import Updates
from relay_wire.publications import Retention

UPDATES = Updates(Retention(), sharded=False, max_bytes=100_000)


class Color(Enum):
    RED = "red"


@dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("caf\udce9.txt", "caf�.txt"),
        ({"\udce9": ["\udce9"]}, {"�": ["�"]}),
        ("\ud83d\ude00", "😀"),  # a pair, as some decoders leave it
        ("läuft", "läuft"),
        (datetime(2024, 5, 1, 12, tzinfo=UTC), "2024-05-01T12:00:00+00:00"),
        (date(2024, 5, 1), "2024-05-01"),
        (Decimal("1.10"), "1.10"),
        (Fraction(1, 4), 0.25),
        (Color.RED, "red"),
        (Point(3), {"x": 3}),
        (PurePosixPath("/a/b"), "/a/b"),
        ({1}, [1]),
    ],
)
def test_what_has_a_plain_meaning_is_repaired(value: Any, expected: Any) -> None:
    assert json.loads(encode(value).decode()) == expected


@pytest.mark.parametrize("value", [object(), b"x", float("nan"), float("inf"), {(1, 2): 3}])
def test_what_has_none_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        encode(value)


def test_what_is_nested_too_deeply_is_refused() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    for function in (encode, plain_copy):
        with pytest.raises(ValueError, match="too deeply"):
            function(nested)


@given(st.recursive(st.none() | st.floats() | st.text(st.characters(codec=None)) | st.integers(), st.lists))
def test_a_copy_can_always_be_sent(value: Any) -> None:
    json.loads(encode(plain_copy(value)).decode())


def test_names_of_fields_are_repaired_too() -> None:
    assert json.loads(join_fields(encode_fields({"caf\udce9": 1}))) == {"caf�": 1}


@pytest.mark.parametrize(
    "make",
    [
        lambda: UPDATES.task_update("caf\udce9", {"a": 1}),
        lambda: UPDATES.on("caf\udce9", {"a": 1}),
        lambda: UPDATES.on("task:caf\udce9", {"a": 1}),
        lambda: UPDATES.task_update("t", {"a": 1}, key="\udce9"),
        lambda: UPDATES.task_update("t", {"a": 1}, key="x" * 2000),
        lambda: UPDATES.task_update("t", {"a": 1}, key=7),  # type: ignore[arg-type]
    ],
)
def test_names_that_could_be_mistaken_for_others_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="Unicode text"):
        make()


def test_a_publisher_refuses_them_before_anything_is_sent() -> None:
    with Publisher("redis://127.0.0.1:1/0") as publisher:
        with pytest.raises(ValueError, match="surrogates"):
            publisher.publish_task_update("caf\udce9", {"a": 1})
        assert publisher.waiting == 0
