"""A client that follows one task, which gets 20 updates a second, in a process of its own."""

import math
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import NamedTuple

import msgspec
import redis
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

PER_SECOND = 20

#: Seconds that the last updates have to arrive.
_GRACE = 3.0


class Report(NamedTuple):
    """What a bystander saw: updates published and received, and their latencies in milliseconds."""

    published: int
    received: int
    p50: float
    p99: float
    longest: float
    ended: str


def _at(latencies: Sequence[float], share: float) -> float:
    """Return the latency that this share of all is not longer than."""
    return latencies[min(len(latencies) - 1, math.ceil(len(latencies) * share) - 1)] if latencies else math.inf


def watch(url: str, redis_port: int, task_id: str, control: Connection) -> None:
    """Run in a process: subscribe, say so, and watch until told to stop; then send the `Report`."""
    stop = threading.Event()
    published = 0

    def publish() -> None:
        nonlocal published
        started = time.monotonic()
        with redis.Redis(port=redis_port) as client:
            while not stop.is_set():
                update = {"type": "task_update", "task_id": task_id, "data": {"at": time.monotonic()}}
                with suppress(redis.RedisError):
                    client.publish("task_updates", msgspec.json.encode(update))
                    published += 1
                time.sleep(max(0.0, started + published / PER_SECOND - time.monotonic()))

    latencies: list[float] = []
    ended = ""
    with connect(url, open_timeout=30, max_size=None) as client:
        client.send(msgspec.json.encode({"type": "subscribe", "task_id": task_id}).decode())
        client.recv(30)
        publisher = threading.Thread(target=publish)
        publisher.start()
        control.send("ready")
        deadline = math.inf
        while time.monotonic() < deadline and not (deadline < math.inf and len(latencies) >= published):
            if control.poll() and deadline == math.inf:
                control.recv()
                stop.set()
                publisher.join()
                deadline = time.monotonic() + _GRACE
            try:
                message = msgspec.json.decode(client.recv(0.1))
            except TimeoutError:
                continue
            except ConnectionClosed as closed:
                ended = str(closed)
                break
            if message.get("type") == "task_update" and "at" in message["data"]:
                latencies.append((time.monotonic() - message["data"]["at"]) * 1000)
    if not stop.is_set():
        control.recv()
        stop.set()
        publisher.join()
    latencies.sort()
    control.send(
        Report(published, len(latencies), _at(latencies, 0.5), _at(latencies, 0.99), _at(latencies, 1.0), ended)
    )
