"""Which tasks a list is to have."""

import pytest

from relay.core.task_filter import EVERY_TASK, TaskFilter

FIELDS = {"status": b'"failed"', "kind": b'"resize"', "title": b'"The Big Picture"', "message": b"7"}
OWNER = frozenset(["user:7", "team:ops"])


def matches(wanted: TaskFilter) -> bool:
    return wanted.matches("order-7/a", FIELDS, OWNER, "order-7")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (EVERY_TASK, True),
        (TaskFilter(statuses=frozenset(["failed", "completed"])), True),
        (TaskFilter(statuses=frozenset(["completed"])), False),
        (TaskFilter(owners=frozenset(["user:7", "user:8"])), True),
        (TaskFilter(owners=frozenset(["user:8"])), False),
        (TaskFilter(parent_id="order-7"), True),
        (TaskFilter(parent_id="order"), False),
        (TaskFilter(kinds=frozenset(["resize"])), True),
        (TaskFilter(kinds=frozenset(["crop"])), False),
        (TaskFilter(text="big pic"), True),
        (TaskFilter(text="ORDER-7"), True),
        (TaskFilter(text="small"), False),
        (TaskFilter(is_visible=lambda task_id, owner: task_id.startswith("order") and "team:ops" in owner), True),
        (TaskFilter(is_visible=lambda _task_id, _owner: False), False),
        (TaskFilter(statuses=frozenset(["failed"]), text="small"), False),
    ],
)
def test_everything_that_is_given_must_hold(wanted: TaskFilter, expected: bool) -> None:
    assert matches(wanted) is expected
    assert wanted.needs_fields is (wanted is not EVERY_TASK)


def test_a_task_without_the_fields_is_found_by_its_id_alone() -> None:
    assert TaskFilter(text="t").matches("task", {}, frozenset(), None)
    assert not TaskFilter(kinds=frozenset(["resize"])).matches("task", {"kind": b"7"}, frozenset(), None)
