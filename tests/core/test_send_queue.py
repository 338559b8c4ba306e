"""The send queue: what waits for one client, and when that is too much."""

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.batches import Batch, Format, Framing, Message, batch_of
from relay.core.closecodes import Close
from relay.core.recovery import Snapshot
from relay.core.send_queue import MIN_PROGRESS, QueueLimits, SendQueue, _Entry
from relay.core.updates import Update
from tests.nesting import TOO_DEEP


def batch(text: bytes, count: int = 1) -> Batch:
    return Batch(text, count, len(text))


def test_as_much_as_the_limits_allow_may_wait_and_no_more() -> None:
    queue = SendQueue(QueueLimits(coalesce_after=1000, messages=3, size=10, age=5.0))
    queue.push(batch(b"12345", 2), now=0.0)
    queue.push(batch(b"67890"), now=1.0)
    queue.push(batch(b""), now=1.0)
    assert queue.overflow() is None  # before the last one: 3 messages, 10 bytes
    queue.push(batch(b""), now=1.0)
    assert queue.overflow() is Close.SLOW_MESSAGES
    queue.pop()
    queue.push(batch(b"123456", 1), now=1.0)
    assert queue.overflow() is None
    queue.pop()
    queue.push(batch(b"123456", 0), now=1.0)
    assert queue.overflow() is None
    queue.push(batch(b"", 0), now=1.0)
    assert queue.overflow() is Close.SLOW_BYTES


def test_no_single_batch_is_the_reason_for_an_overflow_however_large() -> None:
    queue = SendQueue(QueueLimits(coalesce_after=1000, messages=3, size=10, age=5.0))
    queue.push(batch(b"a"), now=0.0)
    queue.push(batch(b"x" * 1000, 100), now=0.0)
    assert queue.overflow() is None
    queue.push(batch(b"b"), now=0.0)
    assert queue.overflow() is Close.SLOW_MESSAGES


def test_what_the_socket_has_taken_of_the_head_no_longer_waits() -> None:
    queue = SendQueue(QueueLimits(coalesce_after=1000, messages=9, size=4, age=5.0))
    queue.push(batch(b"123456"), now=0.0)
    queue.written = 2
    queue.push(batch(b"7"), now=0.0)
    assert queue.overflow() is None
    queue.pop()
    assert (queue.written, queue.size, queue.count) == (0, 1, 1)


def test_paced_batches_count_against_nothing_and_keep_their_place() -> None:
    queue = SendQueue(QueueLimits(coalesce_after=2, messages=3, size=100, age=5.0))
    queue.push(batch(b"head"), now=0.0)
    paced = batch(b"p" * 1000, 50)
    for message in (task_update('{"a":1}'), task_update('{"a":2}')):
        queue.push(batch_of([message]), now=0.0)
    queue.push(paced, now=0.0, paced=True)
    for message in (task_update('{"a":3}'), task_update('{"a":4}')):
        queue.push(batch_of([message]), now=0.0)
        assert queue.overflow() is None
    queue._coalesce()
    assert [waiting.chunk for waiting in queue.peek(9)] == [b"head", [b'{"a":2}'], paced.chunk, [b'{"a":4}']]
    assert (queue.coalesced, queue.count) == (2, 53)


def test_it_calls_back_once_when_little_waits() -> None:
    queue = SendQueue(QueueLimits(coalesce_after=1000, messages=100, size=40, age=5.0))
    calls: list[int] = []
    for _ in range(4):
        queue.push(batch(b"12345678"), now=0.0)
    assert not queue.is_low
    queue.call_when_low(lambda: calls.append(queue.size))
    queue.pop()
    queue.pop()
    assert calls == []
    queue.pop()
    assert (calls, queue.is_low) == ([8], True)
    queue.pop()
    assert calls == [8]
    queue.call_when_low(lambda: calls.append(-1))
    queue.clear()
    assert calls == [8, -1]


def test_a_client_that_reads_nothing_expires_and_one_that_reads_does_not() -> None:
    queue = SendQueue(QueueLimits(coalesce_after=1000, messages=9, size=10**9, age=5.0))
    assert queue.expired(now=1e9) is None
    queue.push(batch(b"a"), now=0.0)
    queue.push(batch(b"b"), now=4.0)
    assert queue.expired(now=5.0) is None
    assert queue.expired(now=5.1) is Close.SLOW_AGE
    queue.pop()
    assert queue.expired(now=5.1) is None
    assert queue.expired(now=10.0) is None
    assert queue.expired(now=10.2) is Close.SLOW_AGE
    # What came later does not excuse it: what waited at the last look must have gone.
    queue.push(batch(b"c" * 1000), now=10.2)
    queue.written = 1
    assert queue.expired(now=10.2) is None


def test_a_client_that_reads_steadily_does_not_expire_however_much_waits() -> None:
    queue = SendQueue(QueueLimits(coalesce_after=1000, messages=9, size=10, age=5.0))
    queue.push(batch(b"x" * 100 * MIN_PROGRESS), now=0.0, paced=True)
    for second in range(1, 60):
        queue.written += MIN_PROGRESS // 4
        assert queue.expired(now=float(second)) is None
    assert queue.expired(now=59.0 + 5.1) is Close.SLOW_AGE


def test_clearing_leaves_nothing() -> None:
    queue = SendQueue(QueueLimits(coalesce_after=1000, messages=1, size=1, age=1.0))
    queue.push(batch(b"abc", 3), now=0.0)
    queue.written = 1
    queue.push(batch(b"d"), now=0.0)
    queue.clear()
    assert (bool(queue), queue.count, queue.size, queue.written, queue.delivered) == (False, 0, 0, 0, 0)
    assert queue.overflow() is None
    with pytest.raises(IndexError):
        queue.head()


class Plain:
    """An encoding that shows what it was given."""

    stateful = False
    whole_values = False

    def hides(self, update: Update) -> bool:
        return False

    def encode(self, update: Update) -> bytes:
        return update.data

    def reset(self, channel: str, snapshot: Snapshot) -> Iterable[bytes]:
        return ()


FORMAT = Format(Plain(), Framing(lambda payload: payload, list))


def task_update(data: str, task: str = "t") -> Message:
    return FORMAT.message(Update(f"task:{task}", "task_update", data.encode(), 0.0))


def waiting(*messages: Message) -> list[str]:
    """What a client gets that did not read while these came: behind a head that is under way all may be merged."""
    queue = SendQueue(QueueLimits(coalesce_after=1, messages=1000, size=100_000, age=9.0))
    queue.push(batch(b"head"), now=0.0)
    for message in messages[:-1]:
        queue._append(_Entry(batch_of([message]), False))
    queue.push(batch_of([messages[-1]]), now=0.0)
    queue.pop()
    return [frame.decode() for head in queue.peek(1000) for frame in head.chunk]


def test_updates_of_a_task_are_merged_at_the_place_of_the_last_and_terminal_ones_stay() -> None:
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
    for many in ("[" * TOO_DEEP + "]" * TOO_DEEP, '{"a":' * TOO_DEEP + "1" + "}" * TOO_DEEP):
        for fields in (f'{{"b":{many}}}', f'{{"status":"failed","b":{many}}}'):
            got = waiting(task_update('{"a":1}'), task_update(fields), task_update('{"a":2}'))
            assert got == ['{"a":1}', fields, '{"a":2}']


def test_nothing_is_merged_across_an_answer() -> None:
    """It may say that updates were lost, with the state after it: what came before must not lie over that."""
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
    queue = SendQueue(QueueLimits(coalesce_after=1000, messages=10, size=20, age=1.0))
    pushed, taken, messages = b"", b"", 0
    for now, step in enumerate(steps):
        if isinstance(step, bytes):
            queue.push(batch(step), float(now))
            pushed += step
            messages += 1
        else:
            heads = queue.peek(gather)
            chunks = [head.chunk for head in heads]
            if chunks:
                assert heads[0] is queue.head()
                chunks[0] = chunks[0][queue.written :]
            sent = b"".join(chunks)[:step]
            taken += sent
            left = len(sent) + queue.written
            while queue and left >= queue.head().size:
                left -= queue.pop().size
            queue.written = left
        assert queue.count + queue.delivered == messages
        waiting = len(pushed) - len(taken)
        assert queue.size - queue.written == waiting
        assert bool(queue) == (queue.count > 0)
        if isinstance(step, bytes):
            before = waiting - len(step)
            expected = Close.SLOW_MESSAGES if queue.count - 1 > 10 else Close.SLOW_BYTES if before > 20 else None
            assert queue.overflow() is expected
    while queue:
        taken += queue.head().chunk[queue.written :]
        queue.pop()
    assert taken == pushed
