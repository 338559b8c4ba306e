"""The abuses of HTTP: handshakes, event streams, the API, connections; see `tests.abuse.abuses`."""

import json
import socket
import threading
import time
import uuid
from contextlib import suppress

import redis

from tests.abuse.target import HANDSHAKE, Target


def long_headers(target: Target) -> str:
    """Handshakes with a header of 59 KB, each another one."""
    count = 0
    while not target.is_over:
        with suppress(OSError), target.connect() as sock:
            header = f"Sec-WebSocket-Extensions: {',' * 59_000}{count}\r\n"
            sock.sendall(HANDSHAKE.format(headers=header).encode())
            sock.recv(4096)
            count += 1
    return f"{count} handshakes"


def segmented_handshakes(target: Target) -> str:
    """Handshakes in two segments."""
    count = 0
    request = HANDSHAKE.format(headers="").encode()
    while not target.is_over:
        with suppress(OSError), target.connect() as sock:
            sock.sendall(request[:100])
            time.sleep(0.0005)
            sock.sendall(request[100:])
            sock.recv(4096)
            count += 1
    return f"{count} handshakes"


def events_hang_ups(target: Target) -> str:
    """Event streams of many tasks whose clients hang up while they open."""
    count = 0
    query = "&".join(f"task=t{number}" for number in range(50))
    while not target.is_over:
        with suppress(OSError), target.connect() as sock:
            sock.sendall(f"GET /events?{query} HTTP/1.1\r\nHost: relay\r\n\r\n".encode())
            time.sleep(0.001)
            count += 1
    return f"{count} streams"


def event_streams(target: Target) -> str:
    """Event streams of 200 tasks each, which all get updates."""
    names = [uuid.uuid4().hex for _ in range(200)]
    query = "&".join(f"task={name}" for name in names)
    socks = []
    for _ in range(20):
        sock = target.connect()
        sock.sendall(f"GET /events?{query} HTTP/1.1\r\nHost: relay\r\n\r\n".encode())
        socks.append(sock)
    count = 0

    def read(sock: socket.socket) -> None:
        with suppress(OSError):
            while sock.recv(1 << 20) and not target.is_over:
                pass

    for sock in socks:
        threading.Thread(target=read, args=(sock,), daemon=True).start()
    with redis.Redis(port=target.redis_port) as client:
        while not target.is_over:
            update = {"type": "task_update", "task_id": names[count % len(names)], "data": {"n": count}}
            client.publish("task_updates", json.dumps(update))
            count += 1
            time.sleep(0.005)
    return f"20 streams, {count} updates"


def api_burst(target: Target) -> str:
    """A thousand requests for pages of large states at once."""
    with redis.Redis(port=target.redis_port) as client:
        for number in range(100):
            data = {f"field{index}": "x" * 1000 for index in range(100)}
            client.publish(
                "task_updates", json.dumps({"type": "task_update", "task_id": f"large{number}", "data": data})
            )
    count = 0
    while not target.is_over:
        socks = []
        for _ in range(200):
            with suppress(OSError):
                sock = target.connect()
                sock.sendall(b"GET /api/tasks?limit=500 HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n")
                socks.append(sock)
        for sock in socks:
            sock.settimeout(max(0.01, min(5.0, target.deadline - time.monotonic())))
            with suppress(OSError):
                while sock.recv(1 << 20):
                    pass
            sock.close()
            count += 1
    return f"{count} requests"


def silent_connections(target: Target) -> str:
    """Connections that say nothing."""
    socks: list[socket.socket] = []
    count = 0
    while not target.is_over:
        with suppress(OSError):
            socks.append(target.connect())
            count += 1
        if len(socks) > 700:
            socks.pop(0).close()
    return f"{count} connections"


def http2_floods(target: Target) -> str:
    """Floods of SETTINGS, PING and WINDOW_UPDATE, where HTTP/2 is on."""
    frames = b"\0\0\0\x04\0\0\0\0\0" * 500 + (b"\0\0\x08\x06\0\0\0\0\0" + bytes(8)) * 500
    frames += b"\0\0\x04\x08\0\0\0\0\0\0\0\0\1" * 500
    count = 0
    while not target.is_over:
        with suppress(OSError), target.connect() as sock:
            sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            while not target.is_over:
                sock.sendall(frames)
                count += 1500
    return f"{count} frames"


def many_headers(target: Target) -> str:
    """Handshakes and other requests with thousands of headers, on several connections at once."""
    handshake = HANDSHAKE.format(headers="a:b\r\n" * 12_000).encode()
    get = b"GET /api/tasks HTTP/1.1\r\nHost: relay\r\n" + b"a:b\r\n" * 2600 + b"\r\n"
    post = b"POST" + get[3:]
    count = 0
    while not target.is_over:
        socks = []
        for request in (handshake, get, post) * 10:
            with suppress(OSError):
                sock = target.connect()
                sock.sendall(request)
                socks.append(sock)
        count += len(socks)
        for sock in socks:
            sock.settimeout(1.0)
            with suppress(OSError):
                sock.recv(4096)
            sock.close()
    return f"{count} requests"


def incomplete_heads(target: Target) -> str:
    """Connections that send 60 KB of a head, and never its end."""
    head = HANDSHAKE.format(headers="a: " + "b" * 60_000).encode()[:-4]
    socks: list[socket.socket] = []
    count = 0
    while not target.is_over:
        with suppress(OSError):
            sock = target.connect()
            sock.sendall(head)
            socks.append(sock)
            count += 1
        if len(socks) > 800:
            socks.pop(0).close()
    return f"{count} connections"


def simultaneous_handshakes(target: Target) -> str:
    """Connections that have sent nearly all of their handshake, and send the rest at the same time."""
    request = HANDSHAKE.format(headers="").encode()
    count = 0
    while not target.is_over:
        socks = []
        for _ in range(400):
            with suppress(OSError):
                sock = target.connect()
                sock.sendall(request[:-1])
                socks.append(sock)
        time.sleep(0.1)
        for sock in socks:
            with suppress(OSError):
                sock.sendall(request[-1:])
        for sock in socks:
            sock.settimeout(1.0)
            with suppress(OSError):
                sock.recv(4096)
            sock.close()
            count += 1
    return f"{count} handshakes"


def _bursts(target: Target, path: str, connections: int) -> str:
    """Have connections that stay open all send requests at the same time, again and again."""
    request = f"GET {path} HTTP/1.1\r\nHost: relay\r\n\r\n".encode()
    socks: list[socket.socket] = []
    count = 0
    while not target.is_over:
        while len(socks) < connections and not target.is_over:
            with suppress(OSError):
                socks.append(target.connect())
        for sock in list(socks):
            try:
                sock.sendall(request * 4)  # pipelined
                count += 4
            except OSError:
                socks.remove(sock)
        deadline = time.monotonic() + 3.0
        for sock in list(socks):
            sock.settimeout(max(0.01, min(deadline, target.deadline) - time.monotonic()))
            try:
                if not sock.recv(1 << 20):
                    raise ConnectionError
            except OSError:
                socks.remove(sock)
                sock.close()
    return f"{count} requests"


def keep_alive_bursts(target: Target) -> str:
    """Requests for no page at all, on 300 connections at once."""
    return _bursts(target, "/nothing", 300)


def metrics_bursts(target: Target) -> str:
    """Requests for the metrics, on 300 connections at once."""
    return _bursts(target, "/metrics", 300)


def slow_bodies(target: Target) -> str:
    """Requests whose bodies come byte by byte."""
    socks: list[socket.socket] = []
    for _ in range(400):
        with suppress(OSError):
            sock = target.connect()
            sock.sendall(b"POST /api/tasks/t/heartbeat HTTP/1.1\r\nHost: relay\r\nContent-Length: 1000000\r\n\r\n")
            socks.append(sock)
    sent = 0
    while not target.is_over:
        for sock in socks:
            with suppress(OSError):
                sock.sendall(b"x")
                sent += 1
        time.sleep(0.05)
    return f"{len(socks)} connections, {sent} bytes"
