"""A subscription whose history cannot be read to its end."""

from relay.core.batches import Batch
from relay.core.hub import Hub
from relay.core.recovery import Snapshot
from relay.core.subscription import MAX_FAILED_READS, ReadHistory, Request, Send, State, Subscription
from relay.core.updates import Position, Update
from tests.core.world import NUMBERED


class Ignoring:
    def offer(self, batch: Batch) -> None:
        """Take a batch."""


def test_a_history_that_cannot_be_read_to_its_end_is_read_again() -> None:
    """Its client was answered, so it would not know which subscription a refusal has ended."""
    hub = Hub(lambda: None)
    request = Request("task:t", NUMBERED, lambda _: (b"answer",), Position("e", 1), requires_position=True)
    subscription = Subscription(hub, Ignoring(), request, lambda _: None)
    hub.start_recovery("task:t", subscription)
    assert subscription.next_effect() == ReadHistory(Position("e", 1))
    second = Update("task:t", "task_update", b"{}", 0.0, Position("e", 2))
    subscription.on_history(Snapshot(Position("e", 3), [second], None))
    assert isinstance(subscription.next_effect(), Send)
    for _ in range(MAX_FAILED_READS):
        assert subscription.next_effect() == ReadHistory(Position("e", 2))
        assert subscription.on_unavailable("down")
    assert subscription.next_effect() == ReadHistory(Position("e", 2))
    assert not subscription.on_unavailable("down")
    assert subscription.next_effect() is None
    assert subscription.state is State.LIVE
    assert hub.needs_snapshot("task:t"), "a reset and the state follow when they can be read"
