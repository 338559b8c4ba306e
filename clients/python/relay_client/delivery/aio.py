"""The line's shell for asyncio: whichever task comes first carries out what all of them have put in line."""

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import Any

from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from relay_wire import redis_urls

from relay_client.delivery.call import Call
from relay_client.delivery.exchange import Exchange, sentinel_options
from relay_client.delivery.line import REDIS_FAILURES, Bounds, Line, once
from relay_client.errors import PostsNotDelivered


def connection_options(timeout: float, client_name: str) -> dict[str, Any]:
    """For redis-py's asyncio clients: no retries of its own, which would multiply deadlines; no deadline but for connecting.

    So put one around every call. redis-py's own is `asyncio.wait_for` where it sends, which before Python 3.12 swallows a
    cancellation that comes just then: some ten percent of those that hit it while it connects.
    """
    return {
        "socket_timeout": None,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "client_name": client_name,
    }


def without_retries(target: redis_urls.RedisTarget, timeout: float = 2.0) -> redis_urls.RedisTarget:
    """The same target, whose Sentinels are asked once each; timeout: of all of them together, so that one that hangs leaves
    time for the others."""
    return replace(
        target, sentinel_options=target.sentinel_options | sentinel_options(target, Retry(NoBackoff(), 0), timeout)
    )


def cancellations() -> int:
    """How often the current task was cancelled. Sentinels and nodes of a cluster need redis-py's own deadlines, to give the
    next one a chance: there a cancellation may be swallowed, and this tells."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


async def finish(coroutine: Coroutine[Any, Any, None], within: float) -> None:
    """Run something to its end. Cancelled meanwhile, it has `within` seconds more, and then the cancellation goes on."""
    task = asyncio.create_task(coroutine)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=within)
        raise
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # has been raised, or comes second to the cancellation


class Connection:
    """The one connection to Redis (on a cluster: one to each node that is needed). For one task at a time, on one loop."""

    def __init__(self, target: redis_urls.RedisTarget, timeout: float, client_name: str) -> None:
        self._target = without_retries(target, timeout)
        self._timeout = timeout
        self._options = connection_options(timeout, client_name)
        if target.is_sharded:
            # Longer than waiting for replicas takes, and short enough to ask another node when one hangs.
            self._options |= {"socket_timeout": 0.6 * timeout}
        self._client: Redis | RedisCluster | None = None
        self.was_sent = False

    async def exchange(self, exchange: Exchange) -> list[Any]:
        """The answers to the calls. Raises what is among REDIS_FAILURES; `was_sent` then says whether they may have been
        carried out. Cancelling closes the connection; they may have been carried out then."""
        self.was_sent = False
        if self._client is None:
            self._client = redis_urls.async_client(self._target, **self._options)
        try:
            if isinstance(self._client, RedisCluster):
                async with asyncio.timeout(self._timeout * (1 + len(self._target.nodes))):
                    await self._client.initialize()
            async with asyncio.timeout(self._timeout):
                if isinstance(self._client, RedisCluster):
                    return await self._with_cluster(self._client, exchange)
                return await self._with_server(self._client.connection_pool, exchange)
        except TimeoutError:
            raise RedisTimeoutError(f"Redis has not answered within {self._timeout:g} s") from None

    async def _with_server(self, pool: ConnectionPool, exchange: Exchange) -> list[Any]:
        connection: Any = await pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            commands = exchange.commands()
            self.was_sent = True
            await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            return exchange.answers([await _answer(connection) for _ in commands])
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.release(connection)

    async def _with_cluster(self, cluster: RedisCluster, exchange: Exchange) -> list[Any]:
        (call,), (words,) = exchange.batch, exchange.words
        self.was_sent = True
        try:
            answer = await cluster.execute_command(*words)
        except ResponseError as error:
            return [error]
        except (AttributeError, KeyError, IndexError) as error:
            # redis-py stumbles over a node that it has not heard of, for instance where a slot moves to a new one.
            await self.close()
            raise RedisClusterException(f"the cluster has changed: {error!r}") from error
        more = exchange.waiting()
        if not more:
            return [answer]
        # No other call is on its way, so the node has one connection: the one that has just been used.
        node = cluster.get_node_from_key(call.keys[0])
        *_, reached = [await cluster.execute_command(*command, target_nodes=node) for command in more]
        return exchange.acknowledged([answer], reached)

    async def close(self) -> None:
        """Close what is open, within the time-out, also when cancelled. It may be used again."""
        client, self._client = self._client, None
        if client is not None:
            await finish(self._close(client), self._timeout)

    async def _close(self, client: Redis | RedisCluster) -> None:
        with suppress(*REDIS_FAILURES):  # it may be gone already
            async with asyncio.timeout(self._timeout):
                await client.aclose()
                if not isinstance(client, RedisCluster):
                    await redis_urls.close_pool(client.connection_pool)


async def _answer(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


class Courier:
    """Gets calls to Redis, for any number of tasks of one loop."""

    def __init__(self, target: redis_urls.RedisTarget, bounds: Bounds, meta_ms: int) -> None:
        self._line = Line(bounds, *((1,) if target.is_sharded else ()))
        self._connection = Connection(target, bounds.timeout, "relay-client")
        self._meta_ms = meta_ms
        self._turn = asyncio.Lock()
        self._posted = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Calls in line."""
        return self._line.waiting

    @property
    def timeout(self) -> float:
        """Seconds for one try."""
        return self._line.bounds.timeout

    def put(self, calls: Sequence[Call], within: float | None = None) -> None:
        """Add calls to the line, for `carry_out`. Raises BufferFull or PublisherClosed."""
        self._line.put(calls, monotonic(), within)

    async def carry_out(self, calls: Sequence[Call]) -> None:
        """Wait until calls that are in line are settled, at the latest at their deadline. Cancelling takes them out of
        line; what is on its way just then may arrive."""
        latest = max(call.deadline for call in calls)
        try:
            async with asyncio.timeout(latest - monotonic()):
                while not all(call.is_settled for call in calls):
                    async with self._turn:
                        await self._carry_out_until(lambda: all(call.is_settled for call in calls))
        except TimeoutError:
            self._line.expire(max(latest, monotonic()))
        finally:
            self._line.abandon(calls)

    async def deliver(self, calls: Sequence[Call], within: float | None = None) -> None:
        """`put` and `carry_out`."""
        self.put(calls, within)
        await self.carry_out(calls)

    def post(self, calls: Sequence[Call]) -> None:
        """Have calls carried out by `carry_out_posted`. Raises BufferFull or PublisherClosed."""
        self._line.put(calls, monotonic(), posted=True)
        self._posted.set()

    async def carry_out_posted(self) -> None:
        """Carry out what is posted, until cancelled."""
        while True:
            await self._posted.wait()
            self._posted.clear()
            while self._line.waiting:
                async with self._turn:
                    await self._carry_out_until(once())

    async def flush(self) -> None:
        """Wait until all that is in line now is settled, at the latest at its deadline. Raises PostsNotDelivered if posted
        calls were lost, now or since the last time. Cancelling leaves them in line."""
        calls = self._line.unsettled()
        while not all(call.is_settled for call in calls):
            async with self._turn:
                await self._carry_out_until(lambda: all(call.is_settled for call in calls))
        lost, count = self._line.take_lost()
        if count:
            raise PostsNotDelivered(lost, count)

    async def close(self, within: float | None = None) -> None:
        """Take no more calls, `flush`, and close the connection; within: give up what is in line then. Raises what `flush`
        does. Closing twice is no error; cancelling closes all the same."""
        self._line.close()
        try:
            async with asyncio.timeout(within):
                await self.flush()
        except TimeoutError:
            self._line.expire(math.inf)
            await self.flush()
        finally:
            await self._connection.close()

    async def _carry_out_until(self, is_done: Callable[[], bool]) -> None:
        """With the turn: carry out from the head of the line until it is done, or empty."""
        before = cancellations()
        while not is_done():
            if cancellations() > before:
                raise asyncio.CancelledError
            pause = self._line.pause(monotonic())
            if pause:
                await asyncio.sleep(pause)
                continue
            batch = self._line.take(monotonic())
            self._line.tell_news()
            if not batch:
                return
            exchange = Exchange(self._line, batch, self._meta_ms)
            try:
                answers = await self._connection.exchange(exchange)
            except REDIS_FAILURES as error:
                self._line.failed(batch, error, monotonic(), was_sent=self._connection.was_sent)
            except BaseException:
                self._line.interrupted(batch, was_sent=self._connection.was_sent)
                raise
            else:
                self._line.answered(batch, answers, monotonic())
            self._line.tell_news()
        if cancellations() > before:
            raise asyncio.CancelledError
