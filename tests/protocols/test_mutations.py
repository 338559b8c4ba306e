"""No mutation of a request escapes its parser; `make fuzz` makes a million for each."""

import pytest

from tests.fuzz import PARSERS, fuzz


@pytest.mark.parametrize("name", PARSERS)
def test_mutations_are_read_or_refused(name: str) -> None:
    read, _ = fuzz(PARSERS[name], 2000, 7)
    assert read > 0  # mutations of which none is well-formed would only test the first check
