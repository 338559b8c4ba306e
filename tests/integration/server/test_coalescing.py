"""A slow client of a fast task sees few frames, the final state, and the end; and it is not dropped."""

import json
import time

from tests.conftest import StartRelay
from tests.harness import RedisServer, eventually, masked_text

UPDATES = 8000


def test_slow_client_gets_folded_state_and_the_end(redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay()
    sock = relay.raw_client(receive_buffer=4096)
    sock.sendall(masked_text(b'{"type":"subscribe","task_id":"t","position":null}'))
    eventually(lambda: relay.metric("relay_subscriptions") == 2)
    started = time.monotonic()
    with redis_server.client() as client:
        for first in range(0, UPDATES, 100):
            with client.pipeline(transaction=False) as pipeline:
                for number in range(first, first + 100):
                    data = {"status": "in_progress", "progress": number, f"field{number % 7}": "x" * 300}
                    message = {"type": "task_update", "task_id": "t", "data": data, "timestamp": number}
                    pipeline.publish("task_updates", json.dumps(message))
                pipeline.execute()
            time.sleep(max(0.0, started + (first + 100) / 2000 - time.monotonic()))  # the pace of the publisher
        end = {"type": "task_update", "task_id": "t", "data": {"status": "completed"}, "timestamp": "end"}
        client.publish("task_updates", json.dumps(end))
    eventually(lambda: '"completed"' in relay.get("/api/tasks/t")[1])
    received = bytearray()
    messages = []
    state: dict[str, object] = {}
    while state.get("status") != "completed":
        received += sock.recv(2048)
        while len(received) >= 2:
            length, start = received[1], 2
            if length == 126:
                length, start = int.from_bytes(received[2:4]), 4
            if len(received) < start + length:
                break
            assert received[0] == 0x81, "no close frame: it was not dropped"
            messages.append(json.loads(received[start : start + length]))
            state.update(messages[-1].get("data", {}))
            del received[: start + length]
    updates = [message for message in messages if message["type"] == "task_update"]
    offsets = [message["position"]["offset"] for message in updates]
    assert offsets == sorted(set(offsets))
    assert updates[-1]["data"] == {"status": "completed"}, "the end is a message of its own"
    assert offsets[-1] == UPDATES + 1
    assert json.loads(relay.get("/api/tasks/t")[1])["data"] == state
    assert state["progress"] == UPDATES - 1
    assert len(updates) < UPDATES / 2
    eventually(lambda: relay.metric("relay_updates_coalesced_total") > UPDATES / 4)
    print(f"{len(updates)} frames for {UPDATES + 1} updates")
