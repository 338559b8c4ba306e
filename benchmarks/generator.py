"""The load generator: a process of raw non-blocking sockets and one epoll, told what to do over its standard input.

It is made to cost less than what it measures. Of each frame only the header is looked at, runs of frames with equal headers
are checked with a few slices, and the sequence number and time stamp are read at a fixed offset. `benchmarks.load` has
the other end; commands and answers are lines of JSON.
"""

import errno
import gc
import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.histogram import Histogram
from benchmarks.wire import CLOSE, PING, PONG, TEXT, handshake, masked, read_sequence, read_time

_READ = 1 << 18
_EVENTS = 1024
_STDIN = 0

#: A server that writes each update by itself makes a read cost what its write cost. Where only the end of a round counts, the
#: generator waits this long between turns that brought less than _FEW updates a read; never in the last tenth of the round.
_PAUSE = 0.01
_FEW = 8

#: Stalled clients ask for this receive buffer; the kernel doubles it.
_STALLED_BUFFER = 4096


class Client:
    """One connection. It goes through connecting, handshake, greeting; then it counts, or it stalls."""

    __slots__ = ("frames", "gone_at", "next", "on_readable", "port", "rest", "sock", "stalled", "timed")

    def __init__(self, sock: socket.socket, stalled: bool, timed: bool) -> None:
        self.sock = sock
        self.stalled = stalled
        self.timed = timed
        self.rest = b""
        self.frames = 0
        self.next = 0
        self.port = 0
        self.gone_at: float | None = None
        self.on_readable: Callable[[Client], None] | None = None


class Generator:
    """All clients of this process, and what is expected of them."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._epoll.register(_STDIN, select.EPOLLIN)
        self._clients: dict[int, Client] = {}
        self._all: list[Client] = []
        self._buffer = bytearray(_READ * 2)
        self._view = memoryview(self._buffer)
        self._commands = b""
        self._connecting: dict[int, Client] = {}
        self._hello = self._greeting = b""
        self._expected = 0
        self._incomplete = 0
        self._sequence_at = self._time_at = -1
        self._disordered = 0
        self._closed = 0
        self._failed = 0
        self._last = 0
        self._lazy_until = 0
        self._seen = 0
        self._cpu = 0.0
        self._latency = Histogram()

    # The loop.

    def run(self) -> None:
        """Obey until standard input ends."""
        while True:
            line = self._next_command()
            if line is None:
                return
            command = json.loads(line)
            answer = getattr(self, "do_" + command.pop("do"))(**command)
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()

    def _next_command(self) -> bytes | None:
        while b"\n" not in self._commands:
            if _STDIN in self._turn(None):
                data = os.read(_STDIN, 65536)
                if not data:
                    return None
                self._commands += data
        line, _, self._commands = self._commands.partition(b"\n")
        return line

    def _turn(self, timeout: float | None) -> set[int]:
        """Wait for sockets once and serve them; returns the descriptors that are not ours to serve."""
        others = set()
        seen = self._seen
        events = self._epoll.poll(timeout, _EVENTS)
        for fd, mask in events:
            client = self._clients.get(fd)
            if client is None:
                others.add(fd)
            elif fd in self._connecting and client.on_readable is None:
                self._connected(client)
            elif client.stalled and client.on_readable is None:
                if mask & (select.EPOLLHUP | select.EPOLLERR):
                    self._gone(client)
            elif client.on_readable is not None:
                client.on_readable(client)
        if seen < self._seen < min(self._lazy_until, seen + _FEW * len(events)):
            time.sleep(_PAUSE)
        return others

    def _until(self, done: Callable[[], bool], timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while not done():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._turn(min(left, 0.1))
        return True

    # Connecting.

    def do_connect(
        self, *, port: int, path: str, count: int, greeting: str, stalled: int, in_flight: int, timed_every: int,
        sources: int, timeout: float,
    ) -> dict[str, Any]:  # fmt: skip
        """Connect `count` clients, the last `stalled` of which stop reading once greeted; `in_flight` at a time."""
        gc.disable()
        self._hello, self._greeting = handshake(f"127.0.0.1:{port}", path), masked(TEXT, greeting.encode())
        self._failed = 0
        started, cpu = time.monotonic(), time.process_time()
        for i in range(count):
            self._until(lambda: len(self._connecting) < in_flight, timeout)
            self._open(port, f"127.0.0.{1 + i % sources}", i >= count - stalled, i % timed_every == 0, path)
        self._until(lambda: not self._connecting, timeout)
        seconds = time.monotonic() - started
        failed = self._failed + len(self._connecting)
        for client in list(self._connecting.values()):
            self._gone(client)
        gc.collect()
        gc.freeze()
        return {
            "connected": count - failed,
            "failed": failed,
            "seconds": seconds,
            "cpu": time.process_time() - cpu,
            "stalled_ports": [client.port for client in self._all if client.stalled],
        }

    def _open(self, port: int, source: str, stalled: bool, timed: bool, path: str) -> None:  # noqa: ARG002
        sock = socket.socket()
        sock.setblocking(False)
        if stalled:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _STALLED_BUFFER)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24), 1)
        sock.bind((source, 0))
        code = sock.connect_ex(("127.0.0.1", port))
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            self._failed += 1
            return
        client = Client(sock, stalled, timed)
        fd = sock.fileno()
        self._clients[fd] = self._connecting[fd] = client
        self._all.append(client)
        self._epoll.register(fd, select.EPOLLOUT)

    def _connected(self, client: Client) -> None:
        sock = client.sock
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._gone(client)
            return
        client.port = sock.getsockname()[1]
        client.on_readable = self._read_answer
        self._epoll.modify(sock.fileno(), select.EPOLLIN)
        sock.send(self._hello)

    def _read_answer(self, client: Client) -> None:
        try:
            data = client.sock.recv(4096)
        except OSError:
            data = b""
        client.rest += data
        if not data or not b"HTTP/1.1 101 ".startswith(client.rest[:13]):
            self._gone(client)
            return
        _, separator, rest = client.rest.partition(b"\r\n\r\n")
        if separator:
            client.rest = rest
            client.on_readable = self._read_greeting
            client.sock.send(self._greeting)

    def _read_greeting(self, client: Client) -> None:
        self._read(client)
        fd = client.sock.fileno()
        if client.frames and fd in self._connecting:
            del self._connecting[fd]
            if client.stalled:
                client.on_readable = None
                self._epoll.modify(fd, 0)  # hang-ups and errors are always reported
            else:
                client.on_readable = self._read

    def _gone(self, client: Client) -> None:
        """The connection has ended, by whomever."""
        fd = client.sock.fileno()
        client.gone_at = time.time()
        if self._connecting.pop(fd, None) is not None:
            self._failed += 1
            self._all.remove(client)
        elif not client.stalled:
            self._closed += 1
            if client.frames < self._expected:
                self._incomplete -= 1
        del self._clients[fd]
        self._epoll.unregister(fd)
        client.sock.close()

    # Counting.

    def _read(self, client: Client) -> None:
        buffer = self._buffer
        rest = client.rest
        kept = len(rest)
        if kept:
            buffer[:kept] = rest
        try:
            received = client.sock.recv_into(self._view[kept:], _READ)
        except BlockingIOError:
            return
        except OSError:
            received = 0
        if not received:
            self._gone(client)
            return
        end = kept + received
        position = frames = 0
        while end - position >= 2:
            length = buffer[position + 1]
            header = 2
            if length > 125:
                header = 4 if length == 126 else 10
                if end - position < header:
                    break
                length = int.from_bytes(buffer[position + 2 : position + header])
            size = header + length
            if position + size > end:
                break
            first = buffer[position]
            if first != TEXT:
                self._control(client, first, bytes(buffer[position + header : position + size]))
                if client.gone_at is not None:
                    return
                position += size
                continue
            run = 1
            if end - position >= 2 * size:
                run = self._equal_headers(position, size, header, (end - position) // size)
            if self._sequence_at >= 0:
                self._look(client, position + header, size, run)
            position += size * run
            frames += run
        client.rest = bytes(buffer[position:end])
        if frames:
            self._seen += frames
            before = client.frames
            client.frames = before + frames
            if before < self._expected <= client.frames:
                self._incomplete -= 1
                if not self._incomplete:
                    self._last, self._cpu = time.monotonic_ns(), time.process_time() - self._cpu

    def _equal_headers(self, position: int, size: int, header: int, most: int) -> int:
        """How many frames in a row have the header of the one at `position`: all `most` of them, or 1.

        If the bytes at each multiple of `size` are the same header, then each frame ends where the next one begins: this
        is an exact parse, not a guess.
        """
        buffer = self._buffer
        stop = position + most * size
        for i in range(header):
            if buffer[position + i : stop : size].count(buffer[position + i]) != most:
                return 1
        return most

    def _look(self, client: Client, payload: int, size: int, run: int) -> None:
        """Check the order of a run of updates, and their age."""
        buffer = self._buffer
        stop = payload + size * run
        for start in range(payload + self._sequence_at, stop, size):
            if read_sequence(buffer, start) != client.next:
                self._disordered += 1
                client.next = read_sequence(buffer, start)
            client.next += 1
        if client.timed:
            now = time.monotonic_ns()
            for start in range(payload + self._time_at, stop, size):
                self._latency.add(now - read_time(buffer, start))

    def _control(self, client: Client, first: int, payload: bytes) -> None:
        if first == PING:
            client.sock.send(masked(PONG, payload))
        elif first == CLOSE:
            self._gone(client)

    def do_arm(self, *, expected: int, sequence_at: int, time_at: int) -> dict[str, Any]:
        """From now on expect so many updates at each client that reads. Offsets of -1: count only."""
        self._expected, self._sequence_at, self._time_at = expected, sequence_at, time_at
        self._disordered = self._closed = self._last = self._seen = 0
        self._latency = Histogram()
        readers = [client for client in self._clients.values() if not client.stalled]
        for client in readers:
            client.frames = client.next = 0
        self._incomplete = len(readers)
        self._lazy_until = expected * len(readers) * 9 // 10 if time_at < 0 else 0
        self._cpu = time.process_time()
        return {"readers": len(readers)}

    def do_collect(self, *, timeout: float, hang_ups: bool) -> dict[str, Any]:
        """Wait until every reader has what is expected, and every stalled client was hung up on if that is asked for."""
        complete = self._until(lambda: self._incomplete <= 0, timeout)
        cpu = self._cpu if self._last else time.process_time() - self._cpu
        if hang_ups:
            self._until(lambda: all(c.gone_at is not None for c in self._all if c.stalled), timeout)
        readers = [client for client in self._clients.values() if not client.stalled]
        frames = sum(client.frames for client in readers)
        wrong = [client for client in readers if client.frames != self._expected]
        self._sequence_at = self._time_at = -1
        return {
            "complete": complete,
            "last": self._last,
            "readers": len(readers),
            "frames": frames,
            "wrong_count": len(wrong),
            "disordered": self._disordered,
            "closed": self._closed,
            "cpu": cpu,
            "latency": self._latency.to_json(),
            "gone": {str(client.port): client.gone_at for client in self._all if client.stalled},
        }

    def do_forget_stalled(self) -> dict[str, Any]:
        """Close what is left of the stalled clients."""
        for client in [client for client in self._clients.values() if client.stalled]:
            self._gone(client)
        self._all = [client for client in self._all if not client.stalled]
        return {}


if __name__ == "__main__":
    Generator().run()
