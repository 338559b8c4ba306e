"""A text from a worker to a watcher, in all flavours: through relays that are restarted, each piece arrives once."""

import threading

import pytest
import relay_client
import trio
from relay_client.errors import StateTooLarge
from relay_client.subscriber import threads as watching
from relay_client.subscriber import trio as trio_watching
from relay_wire.publications import Retention

from tests.conftest import StartRelay
from tests.harness import RedisServer, eventually
from tests.integration.client.flavours import Flavour, publisher, reporter
from tests.integration.client.reading import log_of

PIECES = [f"{number}; " for number in range(200)]


def test_a_reporter_appends_and_a_watcher_streams(
    flavour: Flavour, redis_server: RedisServer, start_relay: StartRelay
) -> None:
    relay = start_relay()
    seen: list[str] = []
    with watching.subscribe(f"ws://127.0.0.1:{relay.port}/ws/tasks", ["t"]) as updates:
        updates.established()
        watcher = threading.Thread(target=lambda: seen.extend(updates.stream("text")))
        watcher.start()
        with reporter(flavour, redis_server.url, rate=1000) as report, report("t") as task:
            for piece in PIECES:
                task.append("text", piece)
                task.append("items", [piece])
            task.progress(50)
        watcher.join(20)
        assert not watcher.is_alive()
    assert "".join(seen) == "".join(PIECES)
    appended = [data["items"]["$append"] for _, kind, data in log_of(redis_server, "task:t") if kind == "task_delta"]
    assert [each for some in appended for each in some] == PIECES


def test_a_publisher_is_told_what_does_not_fit(flavour: Flavour, redis_server: RedisServer) -> None:
    with publisher(flavour, redis_server.url, retention=Retention(max_state_bytes=1000)) as client:
        client.publish_task_update("t", {"text": {"$append": "x" * 900}})
        with pytest.raises(StateTooLarge):
            client.publish_task_update("t", {"text": {"$append": "y" * 200}, "n": 1})
    *_, (_, _, last) = log_of(redis_server, "task:t")
    assert last == {"n": 1, "truncated": True}


async def test_a_stream_goes_on_after_a_restart_and_in_another_process(
    redis_server: RedisServer, start_relay: StartRelay
) -> None:
    relay = start_relay()
    url = f"ws://127.0.0.1:{relay.port}/ws/tasks"
    with relay_client.Publisher(redis_server.url) as client, trio.fail_after(60):
        for piece in PIECES[:50]:
            client.publish_task_update("t", {"text": {"$append": piece}})
        seen = ""
        async with trio_watching.subscribe(url, ["t"]) as updates:
            async for chunk in updates.stream("text"):
                seen += chunk
                if seen == "".join(PIECES[:50]):
                    break
            positions, states = updates.positions, updates.states
        for piece in PIECES[50:]:
            client.publish_task_update("t", {"text": {"$append": piece}})
        redis_server.clear()  # the history, and with it the position, is lost; the worker has the text
        client.publish_task_update("t", {"text": "".join(PIECES)})
        client.publish_task_update("t", {"status": "completed"})
        eventually(lambda: "completed" in relay.get("/api/tasks/t")[1])
        async with trio_watching.subscribe(url, ["t"], positions=positions, states=states) as updates:
            async for chunk in updates.stream("text"):
                assert not chunk.is_restart
                seen += chunk
    assert seen == "".join(PIECES)
