"""`relay_client.redis_service`: a service with one changed import, on a real relay; publishing, connecting and locks."""

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from difflib import ndiff
from pathlib import Path
from typing import Any

import pytest
from relay_client import NotDelivered
from relay_client.redis_service import RedisService
from relay_wire import keys

from relay.processes import start_child
from tests.conftest import StartRelay
from tests.harness import ROOT, RedisServer, RelayServer, eventually
from tests.integration.client.older_redis_py import VERSIONS, check_version, environ_with
from tests.integration.client.publishing.redis_services import listening, run, until
from tests.integration.client.reading import log_of, state_of

SERVICES = Path(__file__).parent / "services"


def test_the_services_differ_in_one_import() -> None:
    before, after = ((SERVICES / f"service_{name}.py").read_text().splitlines() for name in ("before", "after"))
    changes = [line for line in ndiff(before, after) if line[0] in "+-"]
    assert changes == [
        "- from tests.integration.client.publishing.services.former_redis_service import redis_service",
        "+ from relay_client.redis_service import redis_service",
    ]


def what_a_frontend_sees(
    service: str, redis_server: RedisServer, relay: RelayServer, inherited: Mapping[str, str] = os.environ
) -> list[Any]:
    """Run the service, ask it for a task, and watch that as frontends always did: no positions, nothing new."""
    environ = {**inherited} | {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(redis_server.port)}
    environ.pop("REDIS_URL", None)
    command = [sys.executable, "-m", f"tests.integration.client.publishing.services.{service}"]
    child = start_child(command, cwd=ROOT, env=environ, stderr=subprocess.PIPE)
    assert child.stderr is not None
    try:
        with redis_server.client() as client:
            eventually(lambda: dict(client.pubsub_numsub("work_requests")).get(b"work_requests"))
        with relay.client() as frontend:
            frontend.send({"type": "ping"})
            assert frontend.receive()["type"] == "pong"
            frontend.subscribe(service)
            redis_server.publish("work_requests", json.dumps({"task_id": service, "tier": "gold"}))
            frames = [frontend.receive() for _ in range(6)]
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()
        assert child.stderr.read() == b""
        child.stderr.close()
    return frames


@pytest.mark.parametrize("version", VERSIONS)
def test_the_service_runs_with_older_versions_of_redis_py(
    version: str, shared_redis: RedisServer, share_relay: StartRelay
) -> None:
    check_version(version)
    frames = what_a_frontend_sees("service_after", shared_redis, share_relay(), environ_with(version))
    shown: dict[str, Any] = {}
    for frame in frames:
        shown |= frame["data"] if frame["type"] == "task_update" else {}
    assert (shown["status"], shown["progress"]) == ("completed", 100)


def test_a_service_with_one_changed_import_shows_an_old_frontend_the_same(
    redis_server: RedisServer, start_relay: StartRelay
) -> None:
    relay = start_relay()
    shown = {}
    for service in ("service_before", "service_after"):
        frames = what_a_frontend_sees(service, redis_server, relay)
        general = [frame for frame in frames if frame["type"] == "general_update"]
        assert general == [
            {
                "type": "general_update",
                "data": {
                    "type": "task_created",
                    "task_info": {"task_id": service, "status": "pending", "tier": "gold"},
                },
            }
        ]
        shown[service] = [frame["data"] for frame in frames if frame["type"] == "task_update"]
        assert all(set(frame) == {"type", "task_id", "data"} for frame in frames if frame["type"] == "task_update")
        expected = {"status": "completed", "stage": "started", "progress": 100, "message": "at 75 %", "tier": "gold"}
        eventually(lambda service=service, expected=expected: state_of(redis_server, service) == expected)  # type: ignore[misc]
    assert shown["service_before"] == shown["service_after"]
    assert len(shown["service_after"]) == 5


def test_other_services_hear_what_it_publishes(redis_server: RedisServer) -> None:
    received: list[Any] = []

    async def main() -> None:
        service = RedisService(redis_server.url)
        service.subscribe_to_channel("task_updates", received.append)
        service.subscribe_to_channel("general_*", received.append)
        async with listening(service):
            assert await service.publish_task_update("t", {"progress": 40}) is None
            assert await service.publish_general_update({"a": 1}) is None
            await until(lambda: len(received) == 2)

    run(main)
    by_type = {message["type"]: message for message in received}
    assert by_type["task_update"]["task_id"] == "t"
    assert by_type["task_update"]["data"] == {"progress": 40}
    assert by_type["general_update"]["data"] == {"a": 1}
    assert log_of(redis_server, "task:t") == []  # that is for a relay to do


def test_what_nobody_hears_is_published_durably(redis_server: RedisServer) -> None:
    async def main() -> None:
        service = RedisService(redis_server.url)
        position = await service.publish_task_update("t", {"progress": 40})
        assert position is not None
        assert position.offset == 1
        await service.close()
        durable = RedisService(redis_server.url, durable=True)
        assert await durable.publish_task_update("t", {"progress": 50}) == (position.epoch, 2)
        await durable.close()

    run(main)
    assert [data for _, _, data in log_of(redis_server, "task:t")] == [{"progress": 40}, {"progress": 50}]


def test_through_a_restart_of_redis_clients_see_what_was_acknowledged(
    lasting_server: RedisServer, start_relay: StartRelay
) -> None:
    relay = start_relay(redis_url=lasting_server.url, redis_health_interval=0.3)

    async def main() -> None:
        service = RedisService(lasting_server.url, timeout=1.0)
        for number in range(60):
            if number == 20:
                # A channel whose first update is not stored yet begins in another epoch when Redis starts again.
                with lasting_server.client() as admin:
                    eventually(lambda: admin.exists(keys.meta("task:t")))
                lasting_server.kill()
                lasting_server.start()
            await service.publish_task_update("t", {"n": number})
        await service.close()

    with relay.client() as client:
        client.send({"type": "subscribe", "task_id": "t", "position": None})
        assert client.receive()["type"] == "subscribed"
        run(main)
        seen: list[int] = []
        while 59 not in seen:
            message = client.receive()
            assert message["type"] == "task_update", message
            seen.append(message["data"]["n"])
    # Redis acknowledges a plain publish before its listeners have it: the last one may die with it. Which is why durable ones
    # are better.
    assert set(range(60)) - set(seen) <= {19}


def test_publishing_without_redis_is_an_error_by_the_deadline(redis_server: RedisServer) -> None:
    redis_server.kill()

    async def main() -> None:
        service = RedisService(redis_server.url, deadline=0.3, timeout=0.2)
        with pytest.raises(NotDelivered):
            await service.publish_task_update("t", {"progress": 40})
        with pytest.raises(ValueError, match="task id"):
            await service.publish_task_update("", {"progress": 40})
        await service.close()

    run(main)


def is_connected(service: RedisService) -> bool:
    return service.redis_client is not None


def test_it_connects_stops_and_disconnects_as_services_do(redis_server: RedisServer) -> None:
    received: list[Any] = []

    async def main() -> None:
        service = RedisService(redis_server.url)
        assert not is_connected(service)
        await service.connect()
        assert is_connected(service)
        assert service.redis_pool is not None
        assert await service.health_check()
        for _ in range(2):  # as a manager that is started twice
            service.subscribe_to_channel("task_updates", received.append)
        task = asyncio.create_task(service.start_listening())
        await until(lambda: service.alive)
        await service.publish_task_update("t", {"progress": 40})
        await until(lambda: received)
        await service.stop_listening()
        await asyncio.wait_for(task, 5)
        assert len(received) == 1
        await service.stop_listening()  # once more is no error
        again = asyncio.create_task(service.start_listening())
        await until(lambda: service.alive)
        await service.disconnect()
        await asyncio.wait_for(again, 5)
        assert not is_connected(service)
        await service.disconnect()
        assert await service.health_check()  # what is used later connects again
        await service.disconnect()

    run(main)


def test_locks_are_shared_expire_and_are_released_by_their_owner(redis_server: RedisServer) -> None:
    async def main() -> None:
        one, other = RedisService(redis_server.url), RedisService(redis_server.url)
        assert await one.acquire_lock("a lock", 5) is True
        assert await one.acquire_lock("a lock", 5) is False
        assert await other.acquire_lock("a lock", 5) is False
        assert await other.release_lock("a lock") is False
        assert await one.release_lock("a lock") is True
        assert await other.acquire_lock("a lock", timeout=0.05) is True
        await asyncio.sleep(0.1)
        assert await one.acquire_lock("a lock", 5) is True
        assert await other.release_lock("a lock") is False  # it has expired, and is another's
        with redis_server.client() as client:
            assert 0 < client.pttl("a lock") <= 5000
        with pytest.raises(ValueError, match="timeout"):
            await one.acquire_lock("b", 0)
        for service in (one, other):
            await service.disconnect()

    run(main)


def test_without_redis_it_says_so_or_logs(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    redis_server.kill()

    async def main() -> None:
        service = RedisService(redis_server.url, deadline=0.3, timeout=0.2, on_error="log")
        assert await service.health_check() is False
        for attempt in (service.connect(), service.acquire_lock("a")):
            with pytest.raises(ConnectionError, match="does not answer"):
                await attempt
        assert await service.publish_task_update("t", {"progress": 40}) is None
        assert await service.publish_task_update("t", {"wrong": object()}) is None
        assert await service.publish_general_update({"a": 1}) is None
        await service.disconnect()

    with caplog.at_level(logging.ERROR, "relay_client"):
        run(main)
    assert caplog.text.count("update not published") == 3
