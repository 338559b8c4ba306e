"""The sequence of a channel and the buffer of a recovery, in steps that the machine of test_subscription would rarely meet."""

from relay.core.recovery import ChannelSequence, RecoveryBuffer, Reset, Snapshot, StateReached
from relay.core.updates import Position, Update
from tests.core.world import updates


def live_sequence(epoch: str, offset: int) -> ChannelSequence:
    sequence = ChannelSequence()
    sequence.merge(Snapshot(Position(epoch, offset), None, None))
    return sequence


def delivered(sequence: ChannelSequence, snapshot: Snapshot) -> list[Update | Reset | StateReached]:
    """What a merge delivers, apart from the place of the state."""
    return [item for item in sequence.merge(snapshot) if not isinstance(item, StateReached)]


def test_a_late_message_of_a_lost_epoch_does_not_hold_the_sequence_up() -> None:
    sequence = live_sequence("old", 5)
    sequence.disconnect()
    new = Snapshot(Position("new", 1), None, updates("new", 1)[0])
    assert delivered(sequence, new) == [Reset(new)]
    assert not sequence.admit(*updates("old", 6))
    assert not sequence.is_live
    assert not sequence.admit(*updates("new", 2))
    assert delivered(sequence, Snapshot(Position("new", 1), [], None)) == updates("new", 2)
    assert sequence.is_live


def test_updates_of_a_new_epoch_are_delivered_where_no_state_stands_for_them() -> None:
    sequence = live_sequence("old", 5)
    first, second, third = updates("new", 1, 2, 3)
    assert not sequence.admit(second)
    start = Snapshot(Position("new", 0), None, None)
    assert delivered(sequence, Snapshot(Position("new", 2), None, None)) == [Reset(start)]
    assert (sequence.last, sequence.is_live) == (start.top, False)  # the next read begins there
    assert not sequence.admit(third)
    assert delivered(sequence, Snapshot(Position("new", 2), [first, second], None)) == [first, second, third]
    assert sequence.is_live


def test_a_new_epoch_whose_first_updates_are_not_kept_is_reset_to_its_end() -> None:
    sequence = live_sequence("old", 5)
    new = Snapshot(Position("new", 7), None, None)
    assert delivered(sequence, new) == [Reset(Snapshot(Position("new", 0), None, None))]
    assert delivered(sequence, new) == [Reset(new)]
    assert (sequence.last, sequence.is_live) == (new.top, True)


def test_merging_into_a_live_sequence_brings_nothing_twice() -> None:
    sequence = live_sequence("e", 5)
    first, second = updates("e", 6, 7)
    assert sequence.admit(first)
    # Read before both, and after the first:
    assert delivered(sequence, Snapshot(Position("e", 5), [], None)) == []
    assert delivered(sequence, Snapshot(Position("e", 6), [first], None)) == []
    assert sequence.last == ("e", 6)
    assert sequence.admit(second)
    # Even where the history was cut short meanwhile.
    assert delivered(sequence, Snapshot(Position("e", 7), None, None)) == []
    assert (sequence.is_live, sequence.last) == (True, ("e", 7))


def test_the_state_belongs_behind_what_it_contains_and_before_what_is_newer() -> None:
    sequence = live_sequence("e", 5)
    sequence.disconnect()
    missed, held = updates("e", 6, 7)
    assert not sequence.admit(held)
    snapshot = Snapshot(Position("e", 6), [missed], None)
    assert sequence.merge(snapshot) == [missed, StateReached(snapshot), held]
    # One that is older than what was delivered has no place.
    assert sequence.merge(Snapshot(Position("e", 6), [], None)) == []


def test_a_history_that_comes_in_parts_is_delivered_in_parts() -> None:
    sequence = live_sequence("e", 5)
    sequence.disconnect()
    missed, newer = updates("e", 6, 7, 8), updates("e", 9)
    top = Position("e", 8)
    assert sequence.merge(Snapshot(top, missed[:2], None)) == missed[:2]
    assert (sequence.is_live, sequence.last) == (False, ("e", 7))
    assert not sequence.admit(*newer)
    assert delivered(sequence, Snapshot(top, missed[2:], None)) == [*missed[2:], *newer]
    assert (sequence.is_live, sequence.last) == (True, ("e", 9))


def test_more_than_can_be_held_back_is_read_again() -> None:
    sequence = ChannelSequence()
    everything = updates("e", *range(1, 3 * ChannelSequence.MAX_HELD))
    for update in everything:
        assert not sequence.admit(update)
    sequence.merge(Snapshot(Position("e", 0), None, None))
    assert not sequence.is_live
    assert delivered(sequence, Snapshot(Position("e", len(everything)), everything, None)) == everything
    assert sequence.is_live


def test_large_updates_are_held_back_within_bounds() -> None:
    sequence = ChannelSequence()
    data = b"x" * (ChannelSequence.MAX_HELD_BYTES // 8)
    large = [Update("task:t", "task_update", data, 0.0, Position("e", offset)) for offset in range(1, 40)]
    for update in large:
        assert not sequence.admit(update)
        assert sum(len(held.data) for held in sequence._held) <= ChannelSequence.MAX_HELD_BYTES
    sequence.merge(Snapshot(Position("e", 0), None, None))
    assert delivered(sequence, Snapshot(Position("e", len(large)), large, None)) == large


def test_more_than_can_be_buffered_is_read_again() -> None:
    buffer = RecoveryBuffer()
    seen = []
    for update in updates("e", *range(1, RecoveryBuffer.MAX_UPDATES + 2)):
        seen.append(buffer.is_stale)
        buffer.append(update)
    seen.append(buffer.is_stale)
    buffer.restart()
    seen.append(buffer.is_stale)
    assert seen == [False] * (RecoveryBuffer.MAX_UPDATES + 1) + [True, False]
    assert buffer.take(Position("e", 1)) == []


def test_large_updates_fill_the_buffer_sooner() -> None:
    buffer = RecoveryBuffer()
    large = Update("task:t", "task_update", b"x" * (RecoveryBuffer.MAX_BYTES // 2), 0.0, Position("e", 1))
    for _ in range(2):
        buffer.append(large)
    assert not buffer.is_stale
    buffer.append(large)
    assert buffer.is_stale


def test_what_no_read_brings_stays_in_the_buffer() -> None:
    buffer = RecoveryBuffer()
    unpersisted = Update("task:t", "task_update", b"{}", 0.0, None)
    for update in (*updates("e", 1), unpersisted):
        buffer.append(update)
    buffer.restart()
    assert buffer.take(Position("e", 0)) == [unpersisted]
