"""The line's shell for Trio: the same, with redis-py's asyncio client behind the trio-asyncio bridge."""

import math
from collections.abc import Callable, Sequence
from time import monotonic

import trio
import trio_asyncio
from relay_wire import redis_urls

from relay_client.delivery.aio import Connection
from relay_client.delivery.call import Call
from relay_client.delivery.exchange import Exchange
from relay_client.delivery.line import REDIS_FAILURES, Bounds, Line, once
from relay_client.errors import PostsNotDelivered


class Courier:
    """Gets calls to Redis, for any number of tasks of one run. loop: that of the block that owns it."""

    def __init__(
        self, target: redis_urls.RedisTarget, bounds: Bounds, meta_ms: int, loop: trio_asyncio.TrioEventLoop
    ) -> None:
        self._line = Line(bounds, *((1,) if target.is_sharded else ()))
        self._connection = Connection(target, bounds.timeout, "relay-client")
        self._meta_ms = meta_ms
        self._loop = loop
        self._turn = trio.Lock()
        self._posted = trio.Event()

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
            with trio.move_on_after(max(0.0, latest - monotonic())) as scope:
                while not all(call.is_settled for call in calls):
                    async with self._turn:
                        await self._carry_out_until(lambda: all(call.is_settled for call in calls))
            if scope.cancelled_caught:
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
            self._posted = trio.Event()
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

    async def close(self, within: float = math.inf) -> None:
        """Take no more calls, `flush`, and close the connection; within: give up what is in line then. Raises what `flush`
        does. Closing twice is no error; cancelling closes all the same."""
        self._line.close()
        try:
            with trio.move_on_after(within) as scope:
                await self.flush()
            if scope.cancelled_caught:
                self._line.expire(math.inf)
                await self.flush()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self._line.bounds.timeout):
                await self._loop.run_aio_coroutine(self._connection.close())

    async def _carry_out_until(self, is_done: Callable[[], bool]) -> None:
        """With the turn: carry out from the head of the line until it is done, or empty."""
        while not is_done():
            pause = self._line.pause(monotonic())
            if pause:
                await trio.sleep(pause)
                continue
            batch = self._line.take(monotonic())
            self._line.tell_news()
            if not batch:
                return
            exchange = Exchange(self._line, batch, self._meta_ms)
            try:
                answers = await self._loop.run_aio_coroutine(self._connection.exchange(exchange))
            except REDIS_FAILURES as error:
                self._line.failed(batch, error, monotonic(), was_sent=self._connection.was_sent)
            except BaseException:
                self._line.interrupted(batch, was_sent=self._connection.was_sent)
                raise
            else:
                self._line.answered(batch, answers, monotonic())
            self._line.tell_news()
