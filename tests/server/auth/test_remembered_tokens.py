"""Which tokens are remembered, and that those are never too many."""

from hypothesis import given
from hypothesis import strategies as st

from relay.core.grants import Grant
from relay.server.auth.remembered_tokens import RememberedTokens

LONGEST = 40


def digest(number: int) -> bytes:
    return number.to_bytes(32)


def use(remembered: RememberedTokens, number: int, length: int = 1) -> Grant:
    """Show a token; returns its grant, which is made if it is not remembered."""
    grant = remembered.find(digest(number), length)
    if grant is None:
        grant = Grant(subject=str(number))
        remembered.add(digest(number), grant, length)
    return grant


@given(st.lists(st.integers(0, 30), max_size=200), st.integers(2, 10), st.integers(0, 200))
def test_they_are_found_and_bounded(numbers: list[int], max_tokens: int, max_length: int) -> None:
    remembered = RememberedTokens(max_tokens, max_length)
    for number in numbers:
        # The length of a token is always the same.
        assert use(remembered, number, 1 + number % LONGEST).subject == str(number)
        assert remembered.find(digest(number), 1 + number % LONGEST) is not None, "it was used last"
        assert len(remembered) <= max_tokens
        lengths = sum(1 + each % LONGEST for each in range(31) if _has(remembered, each))
        assert lengths <= max_length + 2 * LONGEST


def _has(remembered: RememberedTokens, number: int) -> bool:
    return digest(number) in remembered._newer or digest(number) in remembered._older


def test_as_many_as_there_is_room_for_stay() -> None:
    remembered = RememberedTokens(100)
    grants = [use(remembered, number) for number in range(100)]
    for _ in range(3):
        assert [use(remembered, number) for number in range(100)] == grants
        assert all(use(remembered, number) is grant for number, grant in enumerate(grants))


def test_those_that_are_used_stay() -> None:
    remembered = RememberedTokens(10)
    often = use(remembered, 0)
    for number in range(1, 1000):
        use(remembered, number)
        assert use(remembered, 0) is often
    assert len(remembered) == 10


def test_clear() -> None:
    remembered = RememberedTokens()
    use(remembered, 1)
    remembered.clear()
    assert not len(remembered)
    assert remembered.find(digest(1), 1) is None
