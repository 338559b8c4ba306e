"""Verifies, again and again, that Redis takes writes, and keeps the names of its memory."""

import structlog
from relay_wire import keys
from relay_wire.publications import Retention

from relay.broker import script_calls
from relay.broker.contract import RunCalls
from relay.core.errors import BrokerError
from relay.ticks import sleep_until_tick

_log = structlog.get_logger("relay.redis")


class WriteProbe:
    """Writes to keys of Relay's own, 64 in all, and notes whether Redis lets it.

    Attributes:
        failure: Why Redis does not take writes; None while it does, and before the first probe.
    """

    def __init__(self, run_calls: RunCalls, retention: Retention, interval: float, *, is_sharded: bool) -> None:
        """Make a probe; `run` writes.

        Args:
            run_calls: Runs scripts.
            retention: Says for how long the names of the memory are kept.
            interval: Seconds between two writes.
            is_sharded: Whether the server is a cluster, where one call is about one bucket.
        """
        self._run_calls = run_calls
        self._interval = interval
        groups = [[bucket] for bucket in range(keys.BUCKETS)] if is_sharded else [list(range(keys.BUCKETS))]
        self._groups = groups
        self._retention = retention
        self.failure: str | None = None

    async def check(self) -> None:
        """Write once, within the deadline of a call, and note what Redis says."""
        calls = [script_calls.prepare_call(group, self._retention) for group in self._groups]
        try:
            answers = await self._run_calls(calls)
        except BrokerError as error:
            answers = [error]
        failure = next((str(answer) for answer in answers if isinstance(answer, BrokerError)), None)
        if failure != self.failure:
            if failure is None:
                _log.info("redis takes writes again")
            elif self.failure is None:
                _log.error("redis does not take writes", error=failure)
        self.failure = failure

    async def run(self) -> None:
        """Write at intervals until cancelled."""
        while True:
            await self.check()
            await sleep_until_tick(self._interval)
