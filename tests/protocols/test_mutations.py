"""No mutation of a request escapes its parser; `make fuzz` makes a million for each."""

import pytest

from relay.core.closecodes import Close
from tests.fuzz import PARSERS, fuzz
from tests.fuzz.centrifuge import SESSIONS
from tests.fuzz.sessions import fuzz_sessions


@pytest.mark.parametrize("name", PARSERS)
def test_mutations_are_read_or_refused(name: str) -> None:
    read, _ = fuzz(PARSERS[name], 2000, 7)
    assert read > 0  # mutations of which none is well-formed would only test the first check


@pytest.mark.parametrize("name", SESSIONS)
def test_no_session_fails_or_leaves_anything_behind(name: str) -> None:
    closings = fuzz_sessions(SESSIONS[name], 1000, 7)
    assert closings[Close.BAD_REQUEST] > 0
    assert closings[Close.ABNORMAL_CLOSURE] > 0  # these were served to the end
