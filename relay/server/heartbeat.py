"""The heartbeat: one task that sends every client its heartbeat in turn, and enforces the limits that are in seconds."""

import math
from collections import deque
from time import monotonic, time

from relay.server.gc_tuning import MemoryTuner
from relay.server.session_context import SessionContext
from relay.server.session_registry import RegisteredSession
from relay.ticks import TICK, sleep_until_tick

#: Seconds within which a client has to answer a heartbeat, where its protocol has answers.
PONG_TIMEOUT = 8.0

_TICKS_PER_SECOND = round(1 / TICK)


class Heartbeat:
    """Looks after all sessions of a registry.

    Args:
        context: The sessions, their grants, and what is counted of them.
        memory: Given a chance to trim once a second.
    """

    def __init__(self, context: SessionContext, memory: MemoryTuner) -> None:
        self._grant_timers = context.grant_timers
        self._revocations = context.revocations
        self._registry = context.registry
        self._statistics = context.statistics
        self._memory = memory
        self._waves = max(1, round(context.settings.heartbeat_interval / TICK))
        self._due: list[RegisteredSession] = []
        #: Sessions whose clients have to answer, and since when; the first one has waited longest.
        self._asked: deque[tuple[float, RegisteredSession]] = deque()
        self._ticks = 0

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            await sleep_until_tick()
            self._tick()

    def _tick(self) -> None:
        now = monotonic()
        for session in list(self._registry.backlogged):
            session.check_age(now)
        self._registry.abort_overdue(now - TICK)
        self._check_grants(time())
        self._ticks += 1
        self._check_pongs(now)
        self._send_heartbeats(now)
        if self._ticks % _TICKS_PER_SECOND == 0:
            self._memory.tick()
            self.report()

    def _check_grants(self, wall_clock: float) -> None:
        for timer in self._grant_timers.due(wall_clock):
            timer.check_time(wall_clock)
        if self._revocations.take_changed():  # however many there are, each client is looked at once
            for session in list(self._registry):
                session.check_revoked(self._revocations)

    def _check_pongs(self, now: float) -> None:
        while self._asked and self._asked[0][0] <= now - PONG_TIMEOUT:
            session = self._asked.popleft()[1]
            if session.check_pong(now - PONG_TIMEOUT):
                self._asked.append((now, session))

    def _send_heartbeats(self, now: float) -> None:
        """Send one wave: each client has its turn once in an interval, rather than all at once."""
        turn = self._ticks % self._waves
        if turn == 0:
            self._due = list(self._registry)
        wave = math.ceil(len(self._due) / (self._waves - turn))
        for session in self._due[:wave]:
            if session.heartbeat(now):
                self._asked.append((now, session))
        del self._due[:wave]

    def report(self) -> None:
        """Bring the metrics up to date."""
        self._statistics.report(session.waiting for session in self._registry.backlogged)
