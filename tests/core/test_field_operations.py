"""Operations on fields, and updates with operations folded into one."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.errors import BadMessage
from relay.core.field_operations import (
    FoldedField,
    Operation,
    check_operation,
    literal,
    may_have_operations,
    operation_of,
    without_operations,
)
from relay.core.task_state import fold_operations, unpersisted_data

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
LIST: st.SearchStrategy[list[Any]] = st.lists(st.sampled_from([1, "]", [], {"a": "["}]), max_size=3)


def apply(state: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """What a client does with an update."""
    new = dict(state)
    for name, value in data.items():
        if isinstance(value, dict) and list(value) == ["$append"]:
            old = new.get(name)
            new[name] = value["$append"] if old is None else old + value["$append"]
        elif isinstance(value, dict) and list(value) == ["$set"]:
            new[name] = value["$set"]
        else:
            new[name] = value
    return new


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b'{"$append":"x"}', Operation(True, b'"x"')),
        (b'{ "$append" : [1, 2 ] }', Operation(True, b"[1, 2 ]")),
        (b'{"\\u0024append":5}', Operation(True, b"5")),
        (b'{"$set":{"$append":1}}', Operation(False, b'{"$append":1}')),
        (b'{"$append":1,"x":2}', None),
        (b'{"append":1}', None),
        (b'{"$other":1}', None),
        (b'"$append"', None),
        (b"{}", None),
        (b'{"$append":', None),
    ],
)
def test_an_operation_is_an_object_with_one_member(value: bytes, expected: Operation | None) -> None:
    assert operation_of(value) == expected
    assert may_have_operations(value) or expected is None
    if expected is not None:
        assert operation_of(expected.encoded()) == expected
        assert operation_of(literal(value)) == Operation(False, value)
    else:
        assert literal(value) is value


@pytest.mark.parametrize("operand", [b"null", b"true", b"{}"])
def test_what_cannot_be_appended_is_refused(operand: bytes) -> None:
    with pytest.raises(BadMessage, match="text, a list or a number"):
        check_operation("x", Operation(True, operand))
    check_operation("x", Operation(False, operand))


def test_the_status_is_not_appended_to() -> None:
    with pytest.raises(BadMessage, match="status"):
        check_operation("status", Operation(True, b'"x"'))


def test_of_an_update_that_is_not_stored_only_what_is_set_remains() -> None:
    fields = {"a": b'{"$append":"x"}', "b": b"1", "c": b'{"$set":{"$set":2}}'}
    assert without_operations(fields) == {"b": b"1", "c": b'{"$set":2}'}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"a": 1, "price": "$5"}', b'{"a": 1, "price": "$5"}'),
        (b'{"a":{"$append":"x"},"b":1}', b'{"b":1}'),
        (b'{"a":{"$append":"x"}}', None),
        (b'{"a":{"$set":{"$append":"x"}},"b":{"$append":1}}', b'{"a":{"$set":{"$append":"x"}}}'),
        (b"{}", b"{}"),
    ],
)
def test_nothing_is_appended_by_an_update_without_a_position(data: bytes, expected: bytes | None) -> None:
    assert unpersisted_data(data) == expected


def updates_of(kind: st.SearchStrategy[Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Updates of one field that Redis would take: nothing is appended to a value of another type."""
    value = st.one_of(
        kind.map(lambda delta: {"$append": delta}),
        kind.map(lambda delta: {"$append": delta}),
        kind,
        st.none(),
        kind.map(lambda whole: {"$set": whole}),
    )
    return st.lists(st.dictionaries(st.sampled_from("xyz"), value, max_size=3), min_size=1, max_size=8)


@given(st.one_of(updates_of(TEXT), updates_of(LIST)), st.dictionaries(st.sampled_from("xyz"), st.none()), st.data())
def test_folded_updates_do_what_they_did_one_by_one(
    updates: list[dict[str, Any]], state: dict[str, Any], data: st.DataObject
) -> None:
    one_by_one = state
    for update in updates:
        one_by_one = apply(one_by_one, update)
    raw = [json.dumps(update, ensure_ascii=data.draw(st.booleans())).encode() for update in updates]
    middle = data.draw(st.integers(1, len(raw)))
    for parts in ([raw], [[fold_operations(raw[:middle]), *raw[middle:]]], [raw[:middle], raw[middle:]]):
        folded = state
        for part in parts:
            if part:
                folded = apply(folded, json.loads(fold_operations(part)))
        assert folded == one_by_one


def test_a_literal_stays_one() -> None:
    looks = b'{"$append":"x"}'
    assert fold_operations([b'{"x":{"$set":%b}}' % looks]) == b'{"x":{"$set":%b}}' % looks
    assert fold_operations([b'{"x":{"$set":%b}}' % looks, b'{"x":1}']) == b'{"x":1}'


def test_values_of_different_types_are_not_folded() -> None:
    with pytest.raises(BadMessage):
        fold_operations([b'{"x":1}', b'{"x":{"$append":"a"}}'])
    with pytest.raises(BadMessage):
        fold_operations([b'{"x":{"$append":[1]}}', b'{"x":{"$append":"a"}}'])


def test_many_pieces_are_joined_once() -> None:
    field = FoldedField()
    for _ in range(1000):
        field.add(b'{"$append":"ab"}')
    assert field.value() == b'{"$append":"%b"}' % (b"ab" * 1000)
