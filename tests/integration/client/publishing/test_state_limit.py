"""A state that would be too large: its publisher gets an error, nothing is kept, and the next update goes through."""

import pytest
from relay_client import DeliveryRefused, Publisher
from relay_wire.publications import Retention

from tests.harness import RedisServer


def test_a_publisher_is_told_that_the_state_of_its_task_would_be_too_large(redis_server: RedisServer) -> None:
    with Publisher(redis_server.url, retention=Retention(max_state_bytes=1000)) as publisher:
        first = publisher.publish_task_update("t", {"a": "x" * 800})
        with pytest.raises(DeliveryRefused, match="RELAY_MAX_STATE_BYTES") as caught:
            publisher.publish_task_update("t", {"b": "x" * 300})
        assert not caught.value.may_have_arrived
        second = publisher.publish_task_update("t", {"b": "x"})
    assert first is not None
    assert second == (first.epoch, first.offset + 1)
