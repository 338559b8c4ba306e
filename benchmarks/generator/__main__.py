"""`python -m benchmarks.generator`: the process, and its commands."""

import gc
import re
import select
import ssl
import time
from functools import partial
from typing import Any

from benchmarks.generator.clients import Client, Opener
from benchmarks.generator.counting import Counting, Tally
from benchmarks.generator.loop import Loop, settle_garbage
from benchmarks.wire import CLOSE, PING, PONG, TEXT, masked

_READ = 1 << 18

#: A server that writes each update by itself makes a read cost what its write cost. Where only the end of a round counts, the
#: generator waits this long between turns that brought less than _FEW updates a read; never in the last tenth of the round.
_PAUSE = 0.01
_FEW = 8

#: What comes within this time after the last update was one too many.
_AFTERWARDS = 0.02

_POSITION = re.compile(rb'"position":(\{[^{}]*\})')


class Generator:
    """All clients of this process, and what they are to do."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.loop.after_turn = self._after_turn
        self._tally = Tally()
        self._counting = Counting(self._tally, self._hear, self._control)
        self._count = self._counting.ways["frames"]
        self._opener = Opener(self.loop, self._is_in, self._not_in)
        self._clients: list[Client] = []
        self._failed: list[Client] = []
        self._pongs: dict[bytes, bytes] = {}
        self._buffer = bytearray(_READ * 2)
        self._view = memoryview(self._buffer)
        self._lazy_until = 0
        self._seen = 0

    # Connections.

    def do_connect(
        self, *, door: dict[str, Any], port: int, tasks: list[str], stalled: int, in_flight: int,
        sources: list[str], notes: list[str], retry: float, timeout: float,
    ) -> dict[str, Any]:  # fmt: skip
        """One client for each task named, `in_flight` at a time; the last `stalled` stop reading once they are in.

        Without tasks, those come back that are gone. Who fails tries again after `retry` seconds, if that is not 0.
        """
        gc.disable()
        if tasks:
            first = len(self._clients)
            wanted = [Client(first + i, task, is_stalled=i >= len(tasks) - stalled) for i, task in enumerate(tasks)]
            self._clients += wanted
        else:
            wanted = [client for client in self._clients if client.is_gone]
        self._count = self._counting.ways[door["count"]]
        self._pongs = {ping.encode(): masked(TEXT, pong.encode()) for ping, pong in door["pongs"].items()}
        opener = self._opener
        opener.begin(door, port, notes)
        self._failed.clear()
        attempts = 0
        started, cpu = time.monotonic_ns(), time.process_time()
        deadline = time.monotonic() + timeout
        for i, client in enumerate(wanted):
            if len(opener.opening) >= in_flight:
                self.loop.until(lambda: len(opener.opening) < in_flight, max(0.0, deadline - time.monotonic()))
            elif i % 64 == 0:
                self.loop.turn(0)  # those that are in are served while others still set out
            opener.open(client, sources[i % len(sources)])
        while True:
            self.loop.until(lambda: not opener.opening, max(0.0, deadline - time.monotonic()))
            again = self._failed
            if not retry or not again or time.monotonic() + retry > deadline:
                break
            attempts += len(again)
            self._failed = []
            self.loop.until(lambda: False, retry)
            for i, client in enumerate(again):
                opener.open(client, sources[i % len(sources)])
        ended = time.monotonic_ns()
        for client in list(opener.opening):
            opener.give_up(client)
        settle_garbage()
        return {
            "connected": len(wanted) - len(self._failed),
            "failed": attempts + len(self._failed),
            "started": started,
            "ended": ended,
            "cpu": time.process_time() - cpu,
            "ready": opener.ready.buckets,
            "noted": opener.noted,
            "stalled_ports": [client.port for client in wanted if client.is_stalled],
        }

    def do_drop(self) -> dict[str, Any]:
        """End all connections of readers at once, without a word, as a network that fails does."""
        for client in self._clients:
            if client.is_gone or client.is_stalled:
                continue
            found = _POSITION.findall(client.last)
            if found:
                client.position = found[-1].decode()
            self._leave(client)
        return {"positions": sum(client.position != "null" for client in self._clients)}

    def do_forget_stalled(self) -> dict[str, Any]:
        """Close what is left of the stalled clients."""
        for client in self._clients:
            if client.is_stalled and not client.is_gone:
                self._leave(client)
        self._clients = [client for client in self._clients if not client.is_stalled]
        return {}

    def _is_in(self, client: Client) -> None:
        sock = client.sock
        if client.is_stalled:
            # Hang-ups and errors are always reported.
            self.loop.change(sock.fileno(), 0, partial(self._stalled_event, client))
            return
        is_tls = isinstance(sock, ssl.SSLSocket)
        readable = self._readable_tls if is_tls else self._readable
        self.loop.change(sock.fileno(), select.EPOLLIN, partial(readable, client))
        rest = client.rest
        if rest:
            self._buffer[: len(rest)] = rest
            self._count(client, self._buffer, len(rest))
        if is_tls:
            self._readable_tls(client, 0)  # the library may hold what the kernel no longer announces

    def _not_in(self, client: Client) -> None:
        self._failed.append(client)

    def _stalled_event(self, client: Client, mask: int) -> None:
        if mask & (select.EPOLLHUP | select.EPOLLERR):
            self._leave(client)

    def _leave(self, client: Client) -> None:
        client.is_gone = True
        client.gone_at = time.time()
        self.loop.remove(client.sock.fileno())
        client.sock.close()

    def _lost(self, client: Client) -> None:
        """The server ended a reader's connection."""
        if not client.is_gone:
            self._tally.closed += 1
            self._leave(client)

    # What they receive.

    def _readable(self, client: Client, _: int) -> None:
        kept = 0
        try:
            if client.rest:
                kept = len(client.rest)
                self._buffer[:kept] = client.rest
                received = client.sock.recv_into(self._view[kept:], _READ)
            else:
                received = client.sock.recv_into(self._view, _READ)
        except BlockingIOError:
            return
        except OSError:
            received = 0
        if received:
            self._count(client, self._buffer, kept + received)
        else:
            self._lost(client)

    def _readable_tls(self, client: Client, _: int) -> None:
        """Read all that there is: one call gives one record, of which a server may send one for each update."""
        while not client.is_gone:
            kept = len(client.rest)
            self._buffer[:kept] = client.rest
            try:
                received = client.sock.recv_into(self._view[kept:], _READ)
            except ssl.SSLWantReadError:
                return
            except OSError:
                received = 0
            if received:
                self._count(client, self._buffer, kept + received)
            else:
                self._lost(client)

    def _hear(self, client: Client, message: bytes) -> None:
        pong = self._pongs.get(message)
        if pong is not None:
            self._say(client, pong)

    def _control(self, client: Client, first: int, payload: bytes) -> None:
        if first == PING:
            self._say(client, masked(PONG, payload))
        elif first == CLOSE:
            self._lost(client)

    def _say(self, client: Client, frame: bytes) -> None:
        try:
            client.sock.send(frame)
        except OSError:
            self._lost(client)

    def _after_turn(self, events: int) -> None:
        tally = self._tally
        seen, self._seen = self._seen, tally.frames
        if tally.frames != seen and not tally.is_complete:
            tally.last = time.monotonic_ns()
            if seen < tally.frames < min(self._lazy_until, seen + _FEW * events):
                time.sleep(_PAUSE)

    def do_arm(
        self, *, expected: int, look_every: int, is_continued: bool, keep_last: bool, all_come_back: bool
    ) -> dict[str, Any]:
        """From now on expect so many updates at each reader that is connected.

        look_every:    one client in so many looks at order and age of its updates; with 0 they are only counted
        is_continued:  sequence numbers go on from what was seen before
        keep_last:     the ends of the last updates are kept, for their positions
        all_come_back: readers that are gone are expected, too
        """
        present = [client for client in self._clients if not client.is_stalled]
        readers = sum(all_come_back or not client.is_gone for client in present)
        for i, client in enumerate(present):
            client.frames = 0
            client.is_looked_at = look_every > 0 and i % look_every == 0
            if not is_continued:
                client.following = 0
        self._tally.arm(expected, readers=readers, keep_last=keep_last)
        self._seen = 0
        self._lazy_until = 0 if look_every else expected * readers * 9 // 10
        return {"readers": readers}

    def do_collect(self, *, timeout: float, quiet: float) -> dict[str, Any]:
        """Wait until every reader has what is expected, or nothing has come for `quiet` seconds, or time is up."""
        tally = self._tally
        began = time.monotonic_ns()

        def is_over() -> bool:
            return tally.is_complete or time.monotonic_ns() - max(began, tally.last) > quiet * 1e9

        self.loop.until(is_over, timeout)
        self.loop.until(lambda: False, _AFTERWARDS)
        cpu = time.process_time() - tally.cpu if tally.cpu_at_end is None else tally.cpu_at_end
        readers = [client for client in self._clients if not client.is_stalled and not client.is_gone]
        wrong = sum(client.frames != tally.expected for client in readers)
        return {
            "last": tally.last,
            "readers": len(readers),
            "frames": tally.frames,
            "wrong": wrong,
            "disordered": tally.disordered,
            "strange": tally.strange,
            "closed": tally.closed,
            "cpu": cpu,
            "latency": tally.latency.buckets,
        }

    def do_hang_ups(self, *, timeout: float) -> dict[str, Any]:
        """Wait until every stalled client was hung up on, or time is up; answers when each was, by its port."""
        stalled = [client for client in self._clients if client.is_stalled]
        self.loop.until(lambda: all(client.is_gone for client in stalled), timeout)
        return {str(client.port): client.gone_at if client.is_gone else None for client in stalled}


if __name__ == "__main__":
    generator = Generator()
    generator.loop.obey(generator)
