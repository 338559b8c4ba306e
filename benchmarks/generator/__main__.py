"""`python -m benchmarks.generator`: the process of a load generator, and the commands that it takes from `benchmarks.load`."""

import gc
import select
import ssl
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection

from benchmarks.generator.client import Client
from benchmarks.generator.counting import Counting
from benchmarks.generator.loop import READ, Loop
from benchmarks.latency import Latencies
from benchmarks.load import Connected, Received
from benchmarks.protocol import TASKS, Endpoint
from benchmarks.wire import CLOSE, PING, PONG, masked

_BUFFER = 1 << 18

#: A server that writes each update by itself makes a read cost what its write cost. Where only the end of a round counts, the
#: generator waits this long between turns that brought fewer than _FEW updates per read; never in the last tenth of the round.
_PAUSE = 0.01
_FEW = 8

#: An update that comes within this time after the last one expected is one too many.
_AFTERWARDS = 0.02


class Generator:
    """All clients of this process. The public methods are its commands."""

    def __init__(self) -> None:
        self.loop = Loop(self._after_turn)
        self._counting = Counting(self._on_message, self._on_control)
        self._count = self._counting.messages
        self._clients: list[Client] = []
        self._opening: set[Client] = set()
        self._failed: list[Client] = []
        self._ready = Latencies()
        self._noted: Counter[str] = Counter()
        self._pongs: dict[bytes, bytes] = {}
        self._buffer = bytearray(_BUFFER * 2)
        self._view = memoryview(self._buffer)
        self._batch_until = 0
        self._seen = 0
        self._endpoint = TASKS

    def run(self, pipe: Connection) -> None:
        """Serve the clients, and carry out commands as they arrive."""
        self.loop.add(pipe.fileno(), READ, lambda _: None)
        while True:
            while not pipe.poll():
                self.loop.turn(None)
            command, arguments = pipe.recv()
            pipe.send(getattr(self, command)(**arguments))

    def connect(
        self, *, endpoint: Endpoint, port: int, tasks: list[str], stalled: int, in_flight: int, sources: list[str],
        timeout: float, notes: tuple[str, ...] = (), retry: float = 0.0,
    ) -> Connected:  # fmt: skip
        """Connect one client for each task named; the last `stalled` stop reading once they are subscribed.

        Args:
            endpoint: How they subscribe.
            port: Of the server.
            tasks: When empty, all clients that are closed reconnect.
            stalled: How many.
            in_flight: How many connect at a time.
            sources: Addresses to connect from.
            timeout: Seconds for all of them.
            notes: Texts to count in the replies.
            retry: Seconds after which a client that failed tries again, and that attempt counts as failed; 0 for never.
        """
        gc.disable()
        self._endpoint = endpoint
        wanted = [Client(task, is_stalled=i >= len(tasks) - stalled) for i, task in enumerate(tasks)]
        self._clients += wanted
        wanted = wanted or [client for client in self._clients if client.is_closed]
        counting = self._counting
        framed = counting.messages if endpoint.framing == "message" else counting.websocket_stream
        self._count = framed if endpoint.kind == "ws" else counting.byte_stream
        self._pongs = {ping.encode(): endpoint.frame(pong) for ping, pong in endpoint.pongs.items()}
        self._ready, self._noted = Latencies(), Counter(dict.fromkeys(notes, 0))
        started, cpu, deadline = time.monotonic_ns(), time.process_time(), time.monotonic() + timeout
        again, failed = wanted, 0
        while again:
            self._failed = []
            for i, client in enumerate(again):
                if i % 64 == 0:
                    self.loop.turn(0)  # clients that are connected are served while others still begin
                self.loop.until(lambda: len(self._opening) < in_flight, deadline)
                self._open(client, sources[i % len(sources)], endpoint, port)
            self.loop.until(lambda: not self._opening, deadline)
            for client in list(self._opening):
                self._fail(client)
            failed += len(self._failed)
            again = self._failed if retry and time.monotonic() + retry < deadline else []
            if again:
                self.loop.sleep(retry)
        ended = time.monotonic_ns()
        # What there is now is there to stay, and a collection would take long.
        gc.collect()
        gc.freeze()
        stalled_ports = [client.port for client in wanted if client.is_stalled]
        return Connected(
            len(wanted) - len(self._failed), failed, started, ended, time.process_time() - cpu, stalled_ports, self._ready,
            self._noted,
        )  # fmt: skip

    def drop(self) -> int:
        """Close all readers' connections without a close frame, as a network failure does; returns how many know a position."""
        for client in self._clients:
            if not client.is_closed and not client.is_stalled:
                client.position = self._endpoint.find_position(client.reply, client.last) or client.position
                self._close(client)
        return sum(client.position is not None for client in self._clients)

    def arm(
        self, *, expected: int, sample: int = 1, continues_sequence: bool = False, keep_last: bool = False,
        all_reconnect: bool = False,
    ) -> int:  # fmt: skip
        """From now on expect so many updates at each connected reader; returns the readers.

        Args:
            expected: Updates.
            sample: One client in so many checks order and age of its updates; with 0 they are only counted.
            continues_sequence: Sequence numbers go on from those seen before.
            keep_last: Keep the ends of the last updates, for their positions.
            all_reconnect: Readers that are closed count as well.
        """
        present = [client for client in self._clients if not client.is_stalled]
        readers = sum(all_reconnect or not client.is_closed for client in present)
        for i, client in enumerate(present):
            client.received = 0
            client.is_sampled = sample > 0 and i % sample == 0
            if not continues_sequence:
                client.following = 0
        self._counting.arm(Received(expected, readers), keep_last=keep_last)
        self._seen = 0
        self._batch_until = 0 if sample else expected * readers * 9 // 10
        return readers

    def collect(self, *, timeout: float, quiet: float) -> Received:
        """Wait until every reader has what is expected, or nothing has come for `quiet` seconds, or time is up."""
        received, began = self._counting.received, time.monotonic_ns()

        def is_over() -> bool:
            is_quiet = time.monotonic_ns() - max(began, received.last) > quiet * 1e9
            return received.done >= received.readers or is_quiet

        self.loop.until(is_over, time.monotonic() + timeout)
        if received.done < received.readers:
            last = received.last
            self._counting.stop()
            received.last = last
        self.loop.sleep(_AFTERWARDS)
        readers = [client for client in self._clients if not client.is_stalled and not client.is_closed]
        received.readers, received.wrong = len(readers), sum(each.received != received.expected for each in readers)
        return received

    def closings(self, *, timeout: float) -> dict[int, float | None]:
        """Wait until the server has closed every stalled client; returns when it closed each, by port. Close the others."""
        stalled = [client for client in self._clients if client.is_stalled]
        self.loop.until(lambda: all(client.is_closed for client in stalled), time.monotonic() + timeout)
        closed_at = {client.port: client.closed_at if client.is_closed else None for client in stalled}
        for client in stalled:
            self._close(client)
        self._clients = [client for client in self._clients if not client.is_stalled]
        return closed_at

    def _open(self, client: Client, source: str, endpoint: Endpoint, port: int) -> None:
        began = time.monotonic_ns()
        client.create_socket(source)
        self._opening.add(client)
        self.loop.add(client.sock.fileno(), 0, lambda _: None)
        self._advance(client, client.subscribe(endpoint, port, self._noted), began, 0)

    def _advance(self, client: Client, steps: Iterator[int], began: int, _: int) -> None:
        try:
            mask = next(steps, None)
        except OSError:
            self._fail(client)
            return
        if mask is not None:
            self.loop.change(client.sock.fileno(), mask, partial(self._advance, client, steps, began))
            return
        self._opening.discard(client)
        self._ready.add(time.monotonic_ns() - began)
        if client.is_stalled:  # errors and hang-ups are reported even with an empty mask
            self.loop.change(client.sock.fileno(), 0, partial(self._on_stalled_event, client))
            return
        self.loop.change(client.sock.fileno(), READ, partial(self._on_readable, client))
        if self._endpoint.has_updates_in_reply:
            self._counting.reply(client, client.reply)
        if client.rest:
            self._buffer[: len(client.rest)] = client.rest
            self._count(client, self._buffer, len(client.rest))
        if client.is_tls:
            self._on_readable(client, 0)  # the library may hold bytes that the kernel no longer announces

    def _fail(self, client: Client) -> None:
        self._opening.discard(client)
        self._failed.append(client)
        self._close(client)

    def _close(self, client: Client) -> None:
        if client.is_closed:
            return
        client.is_closed = True
        client.closed_at = time.time()
        self.loop.remove(client.sock.fileno())
        client.sock.close()

    def _lost(self, client: Client) -> None:
        """The server has closed a reader's connection."""
        if not client.is_closed:
            self._counting.received.closed += 1
            self._close(client)

    def _on_stalled_event(self, client: Client, mask: int) -> None:
        if mask & (select.EPOLLHUP | select.EPOLLERR):
            self._close(client)

    def _on_readable(self, client: Client, _: int) -> None:
        """Read once; over TLS until nothing is left, since a read returns one record, which may be a single update."""
        while not client.is_closed:
            kept = len(client.rest)
            if kept:
                self._buffer[:kept] = client.rest
            try:
                received = client.sock.recv_into(self._view[kept:], _BUFFER)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            except OSError:
                received = 0
            if not received:
                self._lost(client)
                return
            self._count(client, self._buffer, kept + received)
            if not client.is_tls:
                return

    def _on_message(self, client: Client, message: bytes) -> None:
        pong = self._pongs.get(message)
        if pong is not None:
            self._send(client, pong)

    def _on_control(self, client: Client, first: int, payload: bytes) -> None:
        if first == PING:
            self._send(client, masked(PONG, payload))
        elif first == CLOSE:
            self._lost(client)

    def _send(self, client: Client, frame: bytes) -> None:
        try:
            client.sock.send(frame)
        except OSError:
            self._lost(client)

    def _after_turn(self, events: int) -> None:
        received = self._counting.received
        seen, self._seen = self._seen, received.updates
        if received.updates != seen and received.done < received.readers:
            received.last = time.monotonic_ns()
            if seen < received.updates < min(self._batch_until, seen + _FEW * events):
                time.sleep(_PAUSE)


if __name__ == "__main__":
    Generator().run(Connection(int(sys.argv[1])))
