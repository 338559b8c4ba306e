"""The abuses of WebSockets, and of what services publish.

Each takes a `Target` and does its worst until the deadline; it returns what it did, in a few words.
"""

import json
import os
import socket
import threading
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

import redis

from tests.abuse.http_abuses import (
    api_burst,
    event_streams,
    events_hang_ups,
    http2_floods,
    incomplete_heads,
    keep_alive_bursts,
    long_headers,
    many_headers,
    metrics_bursts,
    segmented_handshakes,
    silent_connections,
    simultaneous_handshakes,
    slow_bodies,
)
from tests.abuse.target import Abuse, Target
from tests.harness import masked_frame, masked_text


def _message(**fields: Any) -> bytes:
    return masked_text(json.dumps(fields).encode())


def _flood(target: Target, clients: int, data: bytes) -> str:
    """Have many clients send the same bytes as fast as the relay takes them; what it answers is read and ignored."""
    sent = 0
    socks = [target.websocket() for _ in range(clients)]

    def read(sock: socket.socket) -> None:
        with suppress(OSError):
            while sock.recv(1 << 20):
                pass

    for sock in socks:
        threading.Thread(target=read, args=(sock,), daemon=True).start()
    for sock in socks:
        sock.setblocking(False)
    while not target.is_over and socks:
        for sock in list(socks):
            try:
                sent += sock.send(data)
            except BlockingIOError:
                continue
            except OSError:
                socks.remove(sock)
        time.sleep(0.001)
    return f"{clients} clients, {sent / 1e6:.1f} MB, {clients - len(socks)} dropped"


def pings(target: Target) -> str:
    """Clients that send WebSocket pings."""
    return _flood(target, 100, masked_frame(0x89, b"x" * 100) * 100)


def messages(target: Target) -> str:
    """Clients that subscribe, unsubscribe and ping again and again."""
    once = _message(type="subscribe", task_id="a") + _message(type="unsubscribe", task_id="a") + _message(type="ping")
    return _flood(target, 100, once * 50)


def deflate_bombs(target: Target) -> str:
    """Messages of 256 KB that inflate to 256 MB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush(zlib.Z_SYNC_FLUSH)
    bomb = masked_frame(0xC1, packed[:-4])
    count = 0
    while not target.is_over:
        with suppress(OSError), target.websocket("Sec-WebSocket-Extensions: permessage-deflate\r\n") as sock:
            count += 1
            sock.sendall(bomb)
    return f"{count} messages"


@contextmanager
def _history(target: Target, task_id: str, updates: int, size: int) -> Iterator[redis.Redis]:
    """A task with that many updates of that size."""
    with redis.Redis(port=target.redis_port) as client:
        for number in range(updates):
            data = {"n": number, "pad": "x" * size}
            client.publish("task_updates", json.dumps({"type": "task_update", "task_id": task_id, "data": data}))
        yield client


def resumes(target: Target) -> str:
    """Clients that resume a long history from its beginning, again and again."""
    resumed = 0
    with _history(target, "resumed", 900, 4000):
        watcher = target.websocket()
        watcher.sendall(_message(type="subscribe", task_id="resumed", position=None))
        time.sleep(1.0)
        text = watcher.recv(1 << 16)
        epoch = text.split(b'"epoch":"')[1].split(b'"')[0].decode()
        ask = _message(type="subscribe", task_id="resumed", position={"epoch": epoch, "offset": 1})
        while not target.is_over:
            socks = []
            for _ in range(20):
                with suppress(OSError):
                    sock = target.websocket()
                    sock.sendall(ask)
                    socks.append(sock)
            for sock in socks:
                with suppress(OSError):
                    sock.settimeout(0.02)
                    while sock.recv(1 << 20) and not target.is_over:
                        pass
                sock.close()
                resumed += 1
    return f"{resumed} resumes"


def unknown_tasks(target: Target) -> str:
    """Clients that watch tasks that do not exist."""
    with redis.Redis(port=target.redis_port) as client:
        count = 0
        while not target.is_over:
            with suppress(OSError), target.websocket() as sock:
                names = (f"unknown-{uuid.uuid4().hex}" for _ in range(200))
                sock.sendall(b"".join(_message(type="subscribe", task_id=name) for name in names))
                sock.settimeout(0.3)
                with suppress(TimeoutError):
                    while sock.recv(1 << 16):
                        pass
                count += 200
        return f"{count} subscribes, {len(client.keys('*unknown-*'))} keys of them"


def invalid_updates(target: Target) -> str:
    """A service that publishes what cannot be read."""
    count = 0
    with redis.Redis(port=target.redis_port) as client:
        while not target.is_over:
            with client.pipeline(transaction=False) as pipe:
                for _ in range(50):
                    pipe.publish("task_updates", b"no json " + os.urandom(50).hex().encode())
                pipe.execute()
            count += 50
            time.sleep(0.01)
    return f"{count} messages"


def growing_state(target: Target) -> str:
    """A task that reports ever new fields, and clients that ask for its state."""
    count = 0
    socks = [target.websocket() for _ in range(10)]
    for sock in socks:
        sock.setblocking(False)
    with redis.Redis(port=target.redis_port) as client:
        while not target.is_over:
            data = {f"field{count}-{index}": "x" * 100 for index in range(50)}
            client.publish("task_updates", json.dumps({"type": "task_update", "task_id": "growing", "data": data}))
            count += 1
            for sock in socks:
                with suppress(OSError):
                    sock.send(_message(type="subscribe", task_id="growing", position=None))
                with suppress(OSError):
                    sock.recv(1 << 20)
            time.sleep(0.02)
    return f"{count} updates"


#: By how much the abusers yield to the bystander and to Redis, who share a core with them.
_NICE = 10


def run_abuse(abuse: Abuse, target: Target, outcome: Connection) -> None:
    """Run in a process: abuse, and send what was done."""
    os.nice(_NICE)
    outcome.send(abuse(target))


#: All of them, with the settings of the relay that they need.
ABUSES: list[tuple[Abuse, dict[str, Any]]] = [
    (pings, {}),
    (messages, {}),
    (long_headers, {}),
    (many_headers, {}),
    (incomplete_heads, {}),
    (simultaneous_handshakes, {}),
    (segmented_handshakes, {}),
    (deflate_bombs, {}),
    (deflate_bombs, {"hijack_sockets": False}),
    (resumes, {}),
    (unknown_tasks, {}),
    (events_hang_ups, {}),
    (event_streams, {}),
    (api_burst, {}),
    (keep_alive_bursts, {}),
    (metrics_bursts, {}),
    (slow_bodies, {}),
    (silent_connections, {}),
    (http2_floods, {"cleartext_http2": True}),
    (invalid_updates, {}),
    (growing_state, {}),
]
