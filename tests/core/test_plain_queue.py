"""What waits is taken in the order of each channel, with the updates of one task together, and nothing passes a barrier."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st
from relay_wire.creation import NO_OPTIONS, CreationOptions

from relay.core.occurrences import CountedMessage
from relay.core.plain_queue import MAX_RUN, OVERHEAD, BarrierRequest, Pending, PlainQueue
from relay.core.updates import Update

TASKS = ("task:a", "task:b", "task:c")
CHANNELS = (*TASKS, "general", "news")


def pending(channel: str, number: int, *, size: int = 0, owner: bool = False) -> Pending:
    options = CreationOptions(owner=frozenset({"ada"})) if owner else NO_OPTIONS
    update = Update(channel, "x", b"%d" % number + b" " * size, float(number), options=options)
    return Pending(update, CountedMessage(str(number), 1, 0.0, 0.0))


def numbers(batch: list[Pending]) -> list[int]:
    return [int(each.update.data) for each in batch]


def queue_of(*channels: str) -> PlainQueue:
    """A queue with an update of each channel, numbered."""
    queue = PlainQueue()
    for number, channel in enumerate(channels):
        queue.append(pending(channel, number))
    return queue


def take_all(queue: PlainQueue) -> list[int]:
    return numbers(queue.take(1000, 1 << 30, inf))


def test_updates_of_one_task_are_taken_together() -> None:
    queue = queue_of("task:a", "task:b", "task:a", "task:c", "task:b", "task:a")
    assert take_all(queue) == [0, 2, 5, 1, 4, 3]
    assert queue.length == queue.size == 0


def test_what_is_no_update_of_a_task_keeps_its_place() -> None:
    queue = queue_of("task:a", "task:b", "task:a", "general", "news", "general", "task:b", "task:a", "task:b")
    assert take_all(queue) == [0, 2, 1, 3, 4, 5, 6, 8, 7]


def test_an_update_that_names_an_owner_keeps_its_place() -> None:
    queue = queue_of("task:a", "task:b", "task:a")
    queue.append(pending("task:b", 3, owner=True))
    queue.append(pending("task:a", 4))
    assert take_all(queue) == [0, 2, 1, 3, 4]


def test_a_task_with_many_updates_does_not_keep_others_waiting() -> None:
    queue = queue_of(*["task:a"] * (2 * MAX_RUN + 1), "task:b")
    assert take_all(queue) == [*range(MAX_RUN), 2 * MAX_RUN + 1, *range(MAX_RUN, 2 * MAX_RUN + 1)]


def test_a_batch_ends_with_its_bytes() -> None:
    queue = PlainQueue()
    for number in range(4):
        queue.append(pending("task:a", number, size=99))
    assert numbers(queue.take(10, 150, inf)) == [0, 1]
    assert queue.size == 200 + queue.length * OVERHEAD
    assert numbers(queue.take(10, 100, inf)) == [2]


def test_what_is_put_back_comes_first_and_as_it_was() -> None:
    queue = queue_of("task:a", "task:b", "task:a", "task:b")
    batch = queue.take(3, 1000, inf)
    queue.append(pending("task:a", 4))
    queue.restore(batch)
    queue.restore([])
    assert (queue.length, queue.size) == (5, 5 * OVERHEAD + 5)
    assert take_all(queue) == [0, 2, 1, 3, 4]


def test_a_request_waits_for_what_came_before_it_and_for_nothing_else() -> None:
    queue = queue_of("task:a", "task:b")
    request = BarrierRequest(b"r")
    queue.append_request(request)
    queue.append(pending("task:a", 2))
    assert queue.take_request() is None
    assert take_all(queue) == [0, 1]
    assert queue.take_request() == request
    assert take_all(queue) == [2]


def test_what_was_received_later_than_a_time_can_be_left_and_a_request_be_put_before_it() -> None:
    queue = queue_of("task:a", "task:b")
    queue.end_segment()
    queue.append(pending("task:a", 2))
    assert numbers(queue.take(10, 1000, 2.0)) == [0, 1]
    assert queue.take(10, 1000, 2.0) == []
    request = BarrierRequest(b"r", 1, 2.0)
    queue.insert_request(request, 2.0)
    assert queue.take_request() == request
    assert take_all(queue) == [2]


@given(
    st.lists(
        st.sampled_from([*CHANNELS, "end", "request"]) | st.tuples(st.just("take"), st.integers(1, 5), st.booleans()),
        max_size=60,
    )
)
def test_every_order_of_events_keeps_the_order_of_each_channel_and_all_barriers(
    events: list[str | tuple[str, int, bool]],
) -> None:
    queue = PlainQueue()
    taken: list[tuple[int, str, int]] = []  # segment, channel, number
    of_number: dict[int, tuple[int, str]] = {}
    segment = 0

    def note(batch: list[Pending]) -> None:
        taken.extend((*of_number[int(each.update.data)], int(each.update.data)) for each in batch)

    def take(count: int, puts_back: bool = False) -> None:
        if queue.take_request() is None:
            batch = queue.take(count, 1000, inf)
            assert len(batch) <= count
            if puts_back:
                queue.restore(batch)
            else:
                note(batch)

    for number, event in enumerate(events):
        if isinstance(event, tuple):
            take(event[1], event[2])
        elif event == "end":
            queue.end_segment()
            segment += 1
        elif event == "request":
            queue.append_request(BarrierRequest(b"%d" % number))
            segment += 1
        else:
            if event not in TASKS:
                segment += 1
            of_number[number] = segment, event
            queue.append(pending(event, number))
            if event not in TASKS:
                segment += 1
    while queue.length:
        take(7)
    assert queue.size == 0
    assert not queue.shares
    assert sorted(number for _, _, number in taken) == sorted(of_number), "each once"
    assert [each[0] for each in taken] == sorted(each[0] for each in taken), "nothing passes a barrier"
    for channel in CHANNELS:
        of_channel = [number for _, name, number in taken if name == channel]
        assert of_channel == sorted(of_channel)
