"""The line's shell for threads: whichever thread comes first carries out what all of them have put in line."""

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from time import monotonic
from typing import Any
from weakref import WeakSet

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry
from redis.sentinel import SentinelConnectionPool
from relay_wire import redis_urls

from relay_client.delivery.call import Call
from relay_client.delivery.exchange import Exchange, sentinel_options
from relay_client.delivery.line import REDIS_FAILURES, Bounds, Line, once
from relay_client.errors import NotDelivered, PostsNotDelivered

_log = logging.getLogger("relay_client")

#: The thread for posted calls ends when it had nothing to do for so many seconds, and is started again when there is.
_IDLE_SECONDS = 5.0

#: Seconds for which that thread steps aside where somebody waits for the connection.
_ASIDE = 0.001


class Connection:
    """The one connection to Redis (on a cluster: one to each node that is needed). For one thread at a time."""

    def __init__(self, target: redis_urls.RedisTarget, timeout: float, client_name: str) -> None:
        # redis-py's own retries would multiply the deadline.
        retry = Retry(NoBackoff(), 0)
        asking = sentinel_options(target, retry, timeout)
        self._target = replace(target, sentinel_options=target.sentinel_options | asking)
        self._options: dict[str, Any] = {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": retry,
            "client_name": client_name,
        }
        self._client: redis.Redis | redis.RedisCluster | None = None
        self.was_sent = False

    def exchange(self, exchange: Exchange) -> list[Any]:
        """The answers to the calls. Raises what is among REDIS_FAILURES; `was_sent` then says whether they may have been
        carried out."""
        self.was_sent = False
        if self._client is None:
            self._client = redis_urls.sync_client(self._target, **self._options)
        if isinstance(self._client, redis.RedisCluster):
            return self._with_cluster(self._client, exchange)
        return self._with_server(self._client.connection_pool, exchange)

    # Any, here and below: redis-py's types stop short of what is called.
    def _with_server(self, pool: Any, exchange: Exchange) -> list[Any]:
        connection = pool.get_connection()
        try:
            commands = exchange.commands()
            self.was_sent = True
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            return exchange.answers([_answer(connection) for _ in commands])
        except BaseException:
            connection.disconnect()
            raise
        finally:
            pool.release(connection)

    def _with_cluster(self, cluster: Any, exchange: Exchange) -> list[Any]:
        (call,), (words,) = exchange.batch, exchange.words
        self.was_sent = True
        try:
            answer = cluster.execute_command(*words)
        except ResponseError as error:
            return [error]
        except (AttributeError, KeyError, IndexError) as error:
            # redis-py stumbles over a node that it has not heard of, for instance where a slot moves to a new one.
            self.close()
            raise redis.RedisClusterException(f"the cluster has changed: {error!r}") from error
        more = exchange.waiting()
        if not more:
            return [answer]
        # No other call is on its way, so the node's pool has one connection: the one that has just been used.
        node = cluster.get_node_from_key(call.keys[0])
        *_, reached = [cluster.execute_command(*command, target_nodes=node) for command in more]
        return exchange.acknowledged([answer], reached)

    def close(self) -> None:
        """Close what is open. It may be used again."""
        client, self._client = self._client, None
        if client is None:
            return
        with suppress(*REDIS_FAILURES):  # it may be gone already
            client.close()
            if isinstance(client, redis.Redis) and isinstance(client.connection_pool, SentinelConnectionPool):
                for sentinel in client.connection_pool.sentinel_manager.sentinels:
                    sentinel.close()


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


class Courier:
    """Gets calls to Redis, for any number of threads.

    A forked child begins with an empty line and a connection of its own; what its parent had in line stays the parent's.
    """

    def __init__(self, target: redis_urls.RedisTarget, bounds: Bounds, meta_ms: int) -> None:
        self._target = target
        self._bounds = bounds
        self._meta_ms = meta_ms
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._line = Line(self._bounds, *((1,) if self._target.is_sharded else ()))
        self._connection = Connection(self._target, self._bounds.timeout, "relay-client")
        self._mutex = threading.Lock()  # of the line; held for moments
        self._turn = threading.Lock()  # of the connection; held by whoever carries out
        self._waiting_for_turn = 0
        self._posted = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The line is ours; what was lost meanwhile is logged when it is free again."""
        try:
            with self._mutex:
                yield
        finally:
            self._line.tell_news()

    def _check_process(self) -> None:
        # The locks of before a fork may be held for ever, by threads that are only in the parent.
        if self._pid != os.getpid():
            self._begin()

    @property
    def waiting(self) -> int:
        """Calls in line."""
        self._check_process()
        return self._line.waiting

    def put(self, calls: Sequence[Call], within: float | None = None) -> None:
        """Add calls to the line, for `carry_out`. Raises BufferFull or PublisherClosed."""
        self._check_process()
        with self._locked():
            self._line.put(calls, monotonic(), within)

    def carry_out(self, calls: Sequence[Call]) -> None:
        """Wait until calls that are in line are settled: at the latest at their deadline, plus what is left of one try.

        What interrupts it (KeyboardInterrupt) takes them out of line.
        """
        try:
            while not all(call.is_settled for call in calls):
                now = monotonic()
                latest = max(call.deadline for call in calls)
                if now >= latest:
                    with self._locked():
                        self._line.expire(now)
                elif self._wait_for_turn(latest - now):
                    try:
                        self._carry_out_until(lambda: all(call.is_settled for call in calls))
                    finally:
                        self._turn.release()
        except BaseException:
            with self._locked():
                self._line.abandon(calls)
            raise

    def deliver(self, calls: Sequence[Call], within: float | None = None) -> None:
        """`put` and `carry_out`."""
        self.put(calls, within)
        self.carry_out(calls)

    def post(self, calls: Sequence[Call]) -> None:
        """Have calls carried out in the background. Raises BufferFull or PublisherClosed."""
        self._check_process()
        with self._locked():
            self._line.put(calls, monotonic(), posted=True)
            self._posted.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._carry_out_posted, name="relay-publisher", daemon=True)
                self._thread.start()
        _open_couriers.add(self)

    def flush(self) -> None:
        """Wait until all that is in line now is settled. Raises PostsNotDelivered if posted calls were lost, now or since the
        last time."""
        self._check_process()
        with self._locked():
            calls = self._line.unsettled()
        while not all(call.is_settled for call in calls):
            self._wait_for_turn(-1)
            try:
                self._carry_out_until(lambda: all(call.is_settled for call in calls))
            finally:
                self._turn.release()
        with self._locked():
            lost, count = self._line.take_lost()
        if count:
            raise PostsNotDelivered(lost, count)

    def close(self) -> None:
        """Take no more calls, `flush`, and close the connection. Raises what `flush` does; closing twice is no error."""
        self._check_process()
        with self._locked():
            self._line.close()
            self._posted.set()
        _open_couriers.discard(self)
        try:
            self.flush()
        finally:
            with self._turn:
                self._connection.close()

    def _carry_out_until(self, is_done: Callable[[], bool]) -> None:
        """With the turn: carry out from the head of the line until it is done, or empty."""
        while not is_done():
            with self._locked():
                pause = self._line.pause(monotonic())
                batch = [] if pause else self._line.take(monotonic())
            if pause:
                time.sleep(pause)
                continue
            if not batch:
                return
            exchange = Exchange(self._line, batch, self._meta_ms)
            try:
                answers = self._connection.exchange(exchange)
            except REDIS_FAILURES as error:
                with self._locked():
                    self._line.failed(batch, error, monotonic(), was_sent=self._connection.was_sent)
            except BaseException:
                with self._locked():
                    self._line.interrupted(batch, was_sent=self._connection.was_sent)
                raise
            else:
                with self._locked():
                    self._line.answered(batch, answers, monotonic())

    def _wait_for_turn(self, seconds: float) -> bool:
        """seconds: -1 for as long as it takes."""
        with self._locked():
            self._waiting_for_turn += 1
        try:
            return self._turn.acquire(timeout=seconds)
        finally:
            with self._locked():
                self._waiting_for_turn -= 1

    def _carry_out_posted(self) -> None:
        try:
            while self._has_posted():
                while self._line.waiting:
                    with self._turn:
                        self._carry_out_until(once())
                    if self._waiting_for_turn:
                        time.sleep(_ASIDE)  # a lock does not know who came first
        except BaseException:
            with self._locked():
                self._thread = None
            raise

    def _has_posted(self) -> bool:
        """Wait for posted calls; False when the thread may end, which it then must."""
        has_more = self._posted.wait(_IDLE_SECONDS)
        with self._locked():
            self._posted.clear()
            if not self._line.waiting and (not has_more or self._line.is_closed):
                self._thread = None
                return False
        return True


#: Those that were posted to and not closed.
_open_couriers: "WeakSet[Courier]" = WeakSet()


@atexit.register
def _flush_at_exit() -> None:
    """What was posted is not lost for want of a close()."""
    for courier in list(_open_couriers):
        try:
            courier.close()
        except NotDelivered as error:
            _log.error("at exit: %s", error)
