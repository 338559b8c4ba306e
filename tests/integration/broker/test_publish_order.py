"""Plain publishes keep their order, whichever relay received them: one that has missed some waits for the others."""

import time
from typing import Any

import pytest

from tests.conftest import StartRelay
from tests.harness import RedisServer, RelayServer, eventually
from tests.integration.client.reading import log_of


def listeners(admin: Any) -> set[str]:
    """The subscription connections that Redis has."""
    return {client["id"] for client in admin.client_list(_type="pubsub")}


def disconnect_while_another_receives(server: RedisServer, connections: set[str], receiver: RelayServer) -> None:
    """One relay is disconnected, the other one stopped, and an update is published that only that one can receive."""
    with server.client() as admin:
        receiver.freeze_workers()
        with admin.pipeline(transaction=True) as commands:
            for client_id in connections:
                commands.client_kill_filter(_id=client_id)
            commands.publish("task_updates", '{"type":"task_update","task_id":"t","data":{"n":1}}')
            commands.execute()
        eventually(lambda: len(listeners(admin)) == 2)  # it is back


@pytest.fixture
def pair(redis_server: RedisServer, start_relay: StartRelay) -> tuple[RelayServer, RelayServer, set[str]]:
    """Two relays, and the connections of the second."""
    first = start_relay()
    with redis_server.client() as admin:
        before = listeners(admin)
        second = start_relay()
        return first, second, listeners(admin) - before


def numbers(server: RedisServer) -> list[int]:
    return [data["n"] for _, _, data in log_of(server, "task:t")]


def test_what_one_relay_missed_is_persisted_first(
    redis_server: RedisServer, pair: tuple[RelayServer, RelayServer, set[str]]
) -> None:
    first, second, connections = pair
    time.sleep(1.0)  # both are done with their beginnings
    with second.client("t") as client:
        disconnect_while_another_receives(redis_server, connections, first)
        redis_server.publish_task("t", n=2)
        time.sleep(1.5)
        assert numbers(redis_server) == []
        first.thaw_workers()
        assert [client.receive()["data"]["n"] for _ in range(2)] == [1, 2]
    assert numbers(redis_server) == [1, 2]


def test_a_relay_that_does_not_answer_is_not_waited_for_long(
    redis_server: RedisServer, pair: tuple[RelayServer, RelayServer, set[str]]
) -> None:
    first, second, connections = pair
    with second.client("t") as client:
        disconnect_while_another_receives(redis_server, connections, first)
        redis_server.publish_task("t", n=2)
        assert client.receive()["data"] == {"n": 2}
        first.thaw_workers()
        assert client.receive()["data"] == {"n": 1}, "late, but not lost"


def test_of_two_that_reconnect_the_one_that_received_more_goes_first(
    redis_server: RedisServer, start_relay: StartRelay
) -> None:
    """Both were disconnected; one is back a little earlier, receives an update, and is stopped before it persists it."""
    first = start_relay()
    with redis_server.client() as admin:
        own = listeners(admin)
        second = start_relay()
        others = listeners(admin) - own
        for connections, late in ((others, second), (own, first)):
            late.freeze_workers() if late is second else None
            for client_id in connections:
                admin.client_kill_filter(_id=client_id)
        eventually(lambda: len(listeners(admin)) == 1)  # the first one is back, the second one stopped
        redis_server.publish_task("t", n=1)
        second.thaw_workers()
        eventually(lambda: len(listeners(admin)) == 2)
        first.freeze_workers()
        redis_server.publish_task("t", n=2)
        time.sleep(1.5)
        first.thaw_workers()
        eventually(lambda: len(numbers(redis_server)) == 2)
    assert numbers(redis_server) == [1, 2]
