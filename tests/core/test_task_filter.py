"""Which tasks a list is to have."""

from typing import Any

import pytest

from relay.core.grants import Grant, Scope, Verb
from relay.core.task_filter import EVERY_TASK, TaskFilter

FIELDS = {"status": b'"failed"', "kind": b'"resize"', "title": b'"The Big Picture"', "message": b"7"}
OWNER = frozenset(["user:7", "team:ops"])


def may_list(**scope: Any) -> Grant:
    return Grant({Verb.LIST: Scope(**scope)}, subject="ann", groups=frozenset(["team:ops"]))


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
        (TaskFilter(visible_to=may_list(owned=True)), True),
        (TaskFilter(visible_to=may_list(owned=True), kinds=frozenset(["crop"])), False),
        (TaskFilter(statuses=frozenset(["failed"]), text="small"), False),
    ],
)
def test_everything_that_is_given_must_hold(wanted: TaskFilter, expected: bool) -> None:
    assert matches(wanted) is expected
    assert wanted.needs_fields is (wanted is not EVERY_TASK)


def test_a_task_without_the_fields_is_found_by_its_id_alone() -> None:
    assert TaskFilter(text="t").matches("task", {}, frozenset(), None)
    assert not TaskFilter(kinds=frozenset(["resize"])).matches("task", {"kind": b"7"}, frozenset(), None)


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ({"tasks": frozenset(["order-7/a"])}, True),
        ({"tasks": frozenset(["order-7/"])}, False),
        ({"prefixes": ("order-7/",)}, True),
        ({"prefixes": ("order-8/",)}, False),
        ({}, False),
    ],
)
def test_without_owned_tasks_the_id_alone_decides(scope: dict[str, Any], expected: bool) -> None:
    wanted = TaskFilter(visible_to=may_list(**scope))
    assert not wanted.needs_fields
    assert wanted.may_match("order-7/a") is matches(wanted) is expected


def test_a_task_that_may_be_owned_may_match() -> None:
    wanted = TaskFilter(visible_to=may_list(owned=True))
    assert wanted.may_match("order-7/a")
    assert not wanted.matches("order-7/a", FIELDS, frozenset(["user:7"]), None)
