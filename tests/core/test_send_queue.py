"""The outbox: what waits for one client, and when that is too much."""

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.closecodes import Close
from relay.core.outbox import Batch, Bounds, Format, Framing, Message, Outbox, batch_of
from relay.core.recovery import Snapshot
from relay.core.updates import Update


def batch(text: bytes, count: int = 1) -> Batch:
    return Batch(text, count, len(text))


def test_as_much_as_the_bounds_allow_may_wait_and_no_more() -> None:
    outbox = Outbox(Bounds(fold=1000, messages=3, size=10, age=5.0))
    outbox.push(batch(b"12345", 2), now=0.0)
    outbox.push(batch(b"67890"), now=1.0)
    assert outbox.overflow() is None  # 3 messages, 10 bytes
    outbox.push(batch(b""), now=1.0)
    assert outbox.overflow() is Close.SLOW_MESSAGES
    outbox.pop()
    assert outbox.overflow() is None
    outbox.push(batch(b"123456", 1), now=1.0)
    assert outbox.overflow() is Close.SLOW_BYTES


def test_what_the_socket_has_taken_of_the_head_no_longer_waits() -> None:
    outbox = Outbox(Bounds(fold=1000, messages=9, size=4, age=5.0))
    outbox.push(batch(b"123456"), now=0.0)
    assert outbox.overflow() is Close.SLOW_BYTES
    outbox.written = 2
    assert outbox.overflow() is None
    outbox.pop()
    assert (outbox.written, outbox.size, outbox.count) == (0, 0, 0)


def test_age_is_that_of_the_oldest() -> None:
    outbox = Outbox(Bounds(fold=1000, messages=9, size=99, age=5.0))
    assert outbox.overdue(now=1e9) is None
    outbox.push(batch(b"a"), now=0.0)
    outbox.push(batch(b"b"), now=4.0)
    assert outbox.overdue(now=5.0) is None
    assert outbox.overdue(now=5.1) is Close.SLOW_AGE
    outbox.pop()
    assert outbox.overdue(now=5.1) is None
    assert outbox.overdue(now=9.1) is Close.SLOW_AGE


def test_clearing_says_how_many_messages_are_lost() -> None:
    outbox = Outbox(Bounds(fold=1000, messages=1, size=1, age=1.0))
    outbox.push(batch(b"abc", 3), now=0.0)
    outbox.written = 1
    outbox.push(batch(b"d"), now=0.0)
    assert outbox.clear() == 4
    assert (bool(outbox), outbox.count, outbox.size, outbox.written, outbox.delivered) == (False, 0, 0, 0, 0)
    with pytest.raises(IndexError):
        outbox.head()


class Plain:
    """An encoding that shows what it was given."""

    stateful = False

    def encode(self, update: Update) -> bytes:
        return update.data

    def reset(self, channel: str, snapshot: Snapshot) -> Iterable[bytes]:
        return ()


FORMAT = Format(Plain(), Framing(lambda payload: payload, list))


def task_update(data: str, task: str = "t") -> Message:
    return FORMAT.message(Update(f"task:{task}", "task_update", data.encode(), 0.0))


def waiting(*messages: Message) -> list[str]:
    """What a client gets that did not read while these came: behind a head that is under way all may be folded."""
    outbox = Outbox(Bounds(fold=1, messages=1000, size=100_000, age=9.0))
    outbox.push(batch(b"head"), now=0.0)
    for message in messages[:-1]:
        outbox._append(batch_of([message]), 0.0)
    outbox.push(batch_of([messages[-1]]), now=0.0)
    outbox.pop()
    return [frame.decode() for head in outbox.heads(1000) for frame in head.chunk]


def test_updates_of_a_task_are_folded_at_the_place_of_the_last_and_terminal_ones_stay() -> None:
    assert waiting(
        task_update('{"a":1,"b":1}'),
        task_update('{"a":1}', "u"),
        task_update('{"a":2}'),
        task_update('{"status":"failed"}'),
        task_update('{"a":3}'),
        task_update('{"c":[ ]}'),
    ) == ['{"a":1}', '{"a":2,"b":1}', '{"status":"failed"}', '{"a":3,"c":[ ]}']


def test_an_update_with_more_fields_than_a_task_may_have_does_not_end_the_flush() -> None:
    fields = ",".join(f'"f{number}":1' for number in range(400))
    for many in (f'{{"status":"failed",{fields}}}', f'{{"status":1,{fields}}}', f"{{{fields}}}"):
        got = waiting(task_update('{"a":1}'), task_update(many), task_update('{"a":2}'))
        assert got == ['{"a":1}', many, '{"a":2}']


def test_an_update_that_is_nested_too_deeply_does_not_end_the_flush() -> None:
    for many in ("[" * 50_000 + "]" * 50_000, '{"a":' * 50_000 + "1" + "}" * 50_000):
        for fields in (f'{{"b":{many}}}', f'{{"status":"failed","b":{many}}}'):
            got = waiting(task_update('{"a":1}'), task_update(fields), task_update('{"a":2}'))
            assert got == ['{"a":1}', fields, '{"a":2}']


def test_nothing_is_folded_across_an_answer() -> None:
    """It may be the news that the line is broken, and the state after it: what came before must not lie over that."""
    state = FORMAT.payload(b'{"state":"as it is now, a is 5"}')
    assert waiting(task_update('{"a":1}'), state, task_update('{"b":2}')) == [
        '{"a":1}',
        '{"state":"as it is now, a is 5"}',
        '{"b":2}',
    ]


@settings(deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=8), st.integers(1, 12)), max_size=50), st.integers(1, 4))
def test_written_piecemeal_the_bytes_and_the_counts_stay_right(steps: list[bytes | int], gather: int) -> None:
    """Bytes are pushed, integers are what a socket takes of the first batches."""
    outbox = Outbox(Bounds(fold=1000, messages=10, size=20, age=1.0))
    pushed, taken, messages = b"", b"", 0
    for now, step in enumerate(steps):
        if isinstance(step, bytes):
            outbox.push(batch(step), float(now))
            pushed += step
            messages += 1
        else:
            heads = outbox.heads(gather)
            chunks = [head.chunk for head in heads]
            if chunks:
                assert heads[0] is outbox.head()
                chunks[0] = chunks[0][outbox.written :]
            sent = b"".join(chunks)[:step]
            taken += sent
            left = len(sent) + outbox.written
            while outbox and left >= outbox.head().size:
                left -= outbox.pop().size
            outbox.written = left
        assert outbox.count + outbox.delivered == messages
        waiting = len(pushed) - len(taken)
        assert outbox.size - outbox.written == waiting
        assert bool(outbox) == (outbox.count > 0)
        assert outbox.overflow() is (
            Close.SLOW_MESSAGES if outbox.count > 10 else Close.SLOW_BYTES if waiting > 20 else None
        )
    while outbox:
        taken += outbox.head().chunk[outbox.written :]
        outbox.pop()
    assert taken == pushed
