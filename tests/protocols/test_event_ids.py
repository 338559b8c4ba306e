"""The ids of event streams: what was put in comes out, in bounded length, whatever a client makes of it."""

import uuid
from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.updates import Position
from relay.protocols.event_ids import MAX_LENGTH, EventId, id_of_one, positions_of

epochs = st.one_of(
    st.sampled_from(["", "e", "0f3a", "3285695 7c5d6", "épo", "0" * 12]), st.text("0123456789abcdef", max_size=64)
)
positions = st.builds(Position, epochs, st.integers(0, 2**53))


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), positions), max_size=40))
def test_the_last_position_of_each_channel_comes_back(updates: list[tuple[str, Position]]) -> None:
    event_id = EventId()
    expected: dict[str, Position] = {}
    for channel, position in updates:
        event_id.set(channel, position)
        expected[channel] = position
    encoded = event_id.encode().decode()
    if len(encoded) < MAX_LENGTH - 200:
        assert positions_of(encoded, "abcdefgh") == expected
    assert positions_of(encoded, "x") == {}


@given(st.sampled_from("abcdefgh"), positions)
def test_the_id_of_one_channel_is_the_same(channel: str, position: Position) -> None:
    event_id = EventId()
    event_id.set(channel, position)
    assert id_of_one(channel, position) == event_id.encode()


def streams(count: int, epoch_count: int) -> tuple[EventId, list[str]]:
    names = [f"task:{uuid.UUID(int=number)}" for number in range(count)]
    event_id = EventId()
    for number, name in enumerate(names):
        event_id.set(name, Position(f"{number % epoch_count:012x}", 1000 + number))
    return event_id, names


def test_256_tasks_fit_into_a_header_line_of_a_proxy() -> None:
    event_id, names = streams(256, 64)
    encoded = event_id.encode().decode()
    assert len(encoded) < 4000
    found = positions_of(encoded, names)
    assert found is not None
    assert len(found) == 256


@pytest.mark.parametrize("epoch_count", [1, 64, 5000])
@pytest.mark.parametrize("count", [1, 10, 300, 5000])
def test_the_length_is_bounded_and_what_moved_last_is_in_it(count: int, epoch_count: int) -> None:
    event_id, names = streams(count, epoch_count)
    encoded = event_id.encode().decode()
    assert len(encoded) <= MAX_LENGTH
    found = positions_of(encoded, names)
    assert found is not None
    kept = len(found)
    assert list(found) == names[count - kept :]
    assert kept >= min(count, 100)
    for name, position in found.items():
        number = names.index(name)
        assert position == Position(f"{number % epoch_count:012x}", 1000 + number)


@given(st.text(max_size=300))
def test_other_ids_are_none_of_ours(text: str) -> None:
    found = positions_of(text, ["task:a"])
    assert found is None or found == {}


@given(st.binary(max_size=100))
def test_no_bytes_are_too_odd(data: bytes) -> None:
    found = positions_of(urlsafe_b64encode(b"\1" + data).decode(), ["task:a"])
    assert found is None or isinstance(found, dict)


def test_an_id_that_is_too_long_is_not_looked_at() -> None:
    assert positions_of("A" * (MAX_LENGTH + 1), ["task:a"]) is None
