"""Updates that many clients get: encoded once for each format, and the same bytes as if each had encoded them."""

import json
from collections import Counter
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from relay.core.batches import Batch, Format
from relay.core.hub import Hub
from relay.core.recovery import Snapshot
from relay.core.shared_updates import MAX_ENCODINGS, SharedUpdates
from relay.core.subscription import ReadHistory, Request, Send, Subscription
from relay.core.updates import Position, Update
from tests.core.world import LINES, NUMBERED, Numbered, update_of, updates


class Counting(Numbered):
    def __init__(self) -> None:
        super().__init__()
        self.encoded: Counter[Position | None] = Counter()

    def encode(self, update: Update) -> bytes:
        self.encoded[update.position] += 1
        return super().encode(update)


class Client:
    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def offer(self, batch: Batch) -> None:
        assert batch.count == len(batch.chunk)
        assert batch.size == sum(map(len, batch.chunk))
        self.frames += batch.chunk


def resumed(hub: Hub, format: Format, snapshot: Snapshot) -> Client:
    """A client that was away since the first update, and has got all."""
    client = Client()
    request = Request("task:t", format, lambda _: (b"answer",), Position("e", 0))
    subscription = Subscription(hub, client, request, lambda _: None)
    hub.start_recovery("task:t", subscription)
    assert subscription.next_effect() == ReadHistory(Position("e", 0))
    subscription.on_history(snapshot)
    while isinstance(effect := subscription.next_effect(), Send):
        client.offer(effect.batch)
    return client


def test_clients_that_missed_the_same_share_what_is_encoded() -> None:
    encoding = Counting()
    format = Format(encoding, LINES)
    missed = updates("e", 1, 2, 3)
    snapshot = Snapshot(Position("e", 3), SharedUpdates(missed), None)
    for _ in range(10):
        client = resumed(Hub(lambda: None), format, snapshot)
        assert client.frames == [b"answer", *map(Numbered().encode, missed)]
    assert set(encoding.encoded.values()) == {1}


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(1, 5), st.integers(1, 200))
def test_pages_have_everything_once_and_in_order(sizes: list[int], max_updates: int, max_bytes: int) -> None:
    shared = SharedUpdates(
        update_of("task:t", Position("e", offset), {"n": "x" * size}) for offset, size in enumerate(sizes, 1)
    )
    pages = shared.pages(NUMBERED, max_updates, max_bytes)
    assert [frame for page in pages for frame in page.chunk] == list(map(NUMBERED.encoding.encode, shared))
    for page in pages:
        assert 1 <= page.count <= max_updates
        data = [len(json.dumps(json.loads(frame)[3]).encode()) for frame in page.chunk]
        assert sum(data[:-1]) < max_bytes


def test_few_encodings_are_kept() -> None:
    """Clients with formats of their own must not have all of them kept."""
    shared = SharedUpdates(updates("e", 1))
    for number in range(2 * MAX_ENCODINGS):
        assert shared.encoded(number, partial(list, [number])) == [number]
    assert len(shared.encodings) == MAX_ENCODINGS
    assert shared.encoded(0, list) == [0]


def test_an_operation_among_them_is_noticed() -> None:
    plain = update_of("task:t", Position("e", 1), {"n": 1})
    appended = update_of("task:t", Position("e", 2), {"text": {"$append": "x"}})
    assert not SharedUpdates([plain]).has_operations
    assert SharedUpdates([plain, appended]).has_operations
