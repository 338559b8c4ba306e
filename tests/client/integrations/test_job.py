"""What of a job becomes a task: its owner, title and fields, by the functions that the application gives."""

from collections.abc import Mapping
from typing import Any

import pytest
from relay_client.integrations.job import NOTHING_GIVEN, Arguments, Job, JobMapping, described, named


def send(number: int, *, to: str = "all") -> None:
    """A job's function."""


JOB = Job("j", "app.tasks.send", lambda: named(send, (7,), {"to": "me"}), queue="mail", parent_id="p")


def test_arguments_have_the_names_of_the_function() -> None:
    assert named(send, (7,), {"to": "me"}) == {0: 7, "number": 7, "to": "me"}
    assert named(None, (7,), {"to": "me"}) == {0: 7, "to": "me"}
    assert named(send, (1, 2, 3), None) == {0: 1, 1: 2, 2: 3}  # such a call fails, and its report must not


def test_what_the_functions_return_is_all_that_is_known() -> None:
    def title(arguments: Arguments) -> str:
        return f"{arguments.task} {arguments['number']} of {arguments.queue} {arguments.id}"

    mapping = JobMapping(
        {"title": title, "fields": lambda arguments: {"to": arguments["to"]}, "owner": lambda arguments: ["a", "b"]}
    )
    given = mapping.given(JOB)
    assert described(JOB, given) == {
        "to": "me",
        "title": "app.tasks.send 7 of mail j",
        "kind": "app.tasks.send",
        "queue": "mail",
    }
    assert given.options[:2] == (frozenset({"a", "b"}), "p")
    given = JobMapping({}).given(JOB)
    assert described(JOB, given) == {"title": "send", "kind": "app.tasks.send", "queue": "mail"}
    assert given.options[:2] == (None, "p")
    assert JobMapping({}).given(JOB._replace(parent_id=None)) is NOTHING_GIVEN


def test_a_function_that_raises_is_logged_once_and_nobody_owns_the_task(caplog: pytest.LogCaptureFixture) -> None:
    def broken(arguments: Arguments) -> Any:
        return arguments["unknown"]

    mapping = JobMapping({"title": broken, "owner": broken, "fields": broken})
    given = mapping.given(JOB)
    assert described(JOB, given)["title"] == "send"
    assert given.options.owner == frozenset()
    assert len(caplog.records) == 1


def test_a_selection_that_raises_leaves_the_job_out() -> None:
    def broken(arguments: Mapping[str | int, Any]) -> bool:
        raise ValueError

    assert not JobMapping({"select": broken}).is_selected(JOB)
    assert JobMapping({"select": lambda arguments: arguments["number"] == 7}).is_selected(JOB)
