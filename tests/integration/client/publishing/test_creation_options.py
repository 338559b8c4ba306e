"""Owner and parent of a task, given by publishers and reporters in their three flavours, on a real Valkey."""

import json

import pytest
from relay_wire import keys

from tests.harness import RedisServer, eventually
from tests.integration.client.flavours import Flavour, publisher, reporter
from tests.integration.client.publishing.received import ReceivedMessages


def options_of(server: RedisServer, task_id: str) -> list[str | None]:
    with server.client() as client:
        values = client.hmget(keys.meta(f"task:{task_id}"), "owner", "parent")
    return [None if value is None else value.decode() for value in values]


def test_a_publisher_gives_a_task_its_owner_and_its_parent(flavour: Flavour, redis_server: RedisServer) -> None:
    with publisher(flavour, redis_server.url) as client:
        client.publish_task_update("t", {"n": 1}, owner=["user:8", "user:7"], parent_id=7)
        client.publish_task_update("t", {"n": 2})
        client.publish_general_update(
            {"type": "task_created", "task_info": {"task_id": "u", "status": "pending"}}, owner="user:7", parent_id="t"
        )
        with pytest.raises(ValueError, match="own parent"):
            client.publish_task_update("t", {"n": 2}, parent_id="t")
        with pytest.raises(ValueError, match="16 owners at most"):
            client.publish_task_update("t", {"n": 2}, owner=[str(number) for number in range(17)])
    assert options_of(redis_server, "t") == ['["user:7","user:8"]', "7"]
    assert options_of(redis_server, "u") == ['["user:7"]', "t"]


def test_they_stand_beside_the_data_of_a_plain_publish(flavour: Flavour, redis_server: RedisServer) -> None:
    with (
        publisher(flavour, redis_server.url) as client,
        ReceivedMessages(redis_server, "task_updates", "general_updates") as received,
    ):
        client.publish_task_update("t", {"n": 1}, durable=False, owner="user:7", parent_id="p")
        client.publish_general_update({"type": "note"}, durable=False, owner=[])
        first, second = (json.loads(received.next()[1]) for _ in range(2))
    assert (first["owner"], first["parent_id"], first["data"]) == (["user:7"], "p", {"n": 1})
    assert second["owner"] == []
    assert "parent_id" not in second


def test_a_reporter_gives_them_again_when_redis_has_lost_the_task(flavour: Flavour, redis_server: RedisServer) -> None:
    with reporter(flavour, redis_server.url, heartbeat=0.2) as report, report("t", owner="user:7", parent_id="p"):
        assert options_of(redis_server, "t") == ['["user:7"]', "p"]
        with redis_server.client() as client:
            client.flushall()
        eventually(lambda: options_of(redis_server, "t") == ['["user:7"]', "p"])
