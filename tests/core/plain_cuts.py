"""Relays that are cut off from Redis or killed again and again, on the clock of a simulation."""

import random
from dataclasses import dataclass, field
from itertools import pairwise

from relay.core.plain_agreement import Announce, CountPeers
from relay.core.plain_order import Outcome, Persist, PlainOrder, ReadClock
from tests.core.plain_messages import counted, update

STEP = 0.005
PUBLISH_INTERVAL = 0.04


@dataclass
class CutRelay:
    """One relay and its connections, which break together.

    Attributes:
        order: Its part.
        clock_ahead: Its monotonic clock, compared to that of the simulation.
        up_at: When it connects.
        is_up: Whether it is connected.
        wire: What is under way to it, with the times of arrival.
        persisting: What is under way to Redis, and when it arrives.
    """

    order: PlainOrder
    clock_ahead: float
    up_at: float
    is_up: bool = False
    wire: list[tuple[float, bytes | int]] = field(default_factory=list)
    persisting: tuple[float, Persist] | None = None


class Cuts:
    """A run: plain messages are published, and relays are cut off.

    Attributes:
        now: Seconds since it began.
        is_publishing: Whether messages are published.
        received: Messages that a relay has received.
        log: The messages in the order in which they were persisted.
        delays: Seconds from publishing each message to persisting it.
    """

    def __init__(self, seed: int, relay_count: int) -> None:
        self._draw = random.Random(seed)
        self.now = 0.0
        self.is_publishing = True
        self.received: set[int] = set()
        self.log: dict[int, None] = {}
        self.delays: list[float] = []
        self._published_at: list[float] = []
        self._relays_made = 0
        self.relays = [self._relay(0.2 * number) for number in range(relay_count)]

    def _relay(self, up_at: float) -> CutRelay:
        number = self._relays_made
        self._relays_made += 1
        names = (b"r%d-%d" % (number, count) for count in range(10_000))
        return CutRelay(PlainOrder(b"relay%d" % number, lambda: next(names)), 1000.0 * number, up_at)

    @property
    def disorder(self) -> list[tuple[int, int]]:
        """Messages that were persisted one after the other, the later first."""
        order = list(self.log)
        return [(one, other) for one, other in pairwise(order) if other < one]

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        while self.now < until:
            self.now += STEP
            if self.is_publishing and self.now >= len(self._published_at) * PUBLISH_INTERVAL:
                self._publish(len(self._published_at))
                self._published_at.append(self.now)
            for relay in self.relays:
                self._step(relay)

    def cut(self, numbers: list[int], seconds: float) -> None:
        """Cut off some relays for so long, and until each tries again."""
        for number in numbers:
            relay = self.relays[number]
            if relay.persisting is not None and self._draw.random() < 0.5:
                self._persist(relay.persisting[1])  # it was carried out, but the answer is lost
            relay.is_up = False
            relay.wire.clear()
            relay.up_at = self.now + seconds + self._draw.uniform(0.01, 0.4)
        self.run(seconds)

    def kill(self, number: int) -> None:
        """Kill a relay. Another one is started in its place, which knows nothing."""
        relay = self.relays[number]
        if relay.persisting is not None and self._draw.random() < 0.5:
            self._persist(relay.persisting[1])
        self.relays[number] = self._relay(self.now + self._draw.uniform(0.5, 1.0))
        self.run(1.0)

    def _publish(self, message: bytes | int) -> None:
        for relay in self.relays:
            if relay.is_up:
                last = relay.wire[-1][0] if relay.wire else 0.0
                relay.wire.append((max(last, self.now + self._draw.uniform(0.001, 0.02)), message))

    def _persist(self, effect: Persist) -> None:
        for pending in effect.batch:
            number = int(pending.update.data) // 10
            if number not in self.log:
                self.log[number] = None
                self.delays.append(self.now - self._published_at[number])

    def _step(self, relay: CutRelay) -> None:
        now = self.now + relay.clock_ahead
        if not relay.is_up and self.now >= relay.up_at:
            relay.is_up = True
            relay.order.on_connecting(now)
        while relay.wire and relay.wire[0][0] <= self.now:
            _, message = relay.wire.pop(0)
            if isinstance(message, int):
                self.received.add(message)
                assert relay.order.on_received(update(10 * message, now), counted())
            else:
                relay.order.on_barrier_message(message, now)
        self._step_barrier(relay, now)
        self._step_persist(relay, now)

    def _step_barrier(self, relay: CutRelay, now: float) -> None:
        effect = relay.order.next_barrier(now)
        if isinstance(effect, Announce):
            if relay.is_up:
                self._publish(effect.message)
            relay.order.on_asked(now, is_refused=False)
        elif isinstance(effect, CountPeers):
            relay.order.on_peer_count(sum(each.is_up for each in self.relays) if relay.is_up else None, now)

    def _step_persist(self, relay: CutRelay, now: float) -> None:
        if relay.persisting is not None:
            ends_at, under_way = relay.persisting
            if relay.is_up and self.now < ends_at:
                return
            relay.persisting = None
            if relay.is_up:
                self._persist(under_way)
            outcome = Outcome.PERSISTED if relay.is_up else Outcome.UNAVAILABLE
            relay.order.on_outcomes([(pending, outcome) for pending in under_way.batch], now, 0.1)
        for _ in range(10):
            effect = relay.order.next_persist(now)
            if isinstance(effect, Persist):
                relay.persisting = (self.now + self._draw.uniform(0.0, 0.02), effect)
                return
            if isinstance(effect, ReadClock):
                if relay.is_up:
                    relay.order.on_clock(now - STEP, now, int(self.now * 1000))
                else:
                    relay.order.on_no_clock(now)
            elif isinstance(effect, Announce):
                if relay.is_up:
                    self._publish(effect.message)
            else:
                return


def run_cuts(seed: int, relay_count: int, faults: int) -> Cuts:
    """Cut off one of two relays, or two of more, again and again; then wait until everything is persisted."""
    draw = random.Random(seed)
    cuts = Cuts(seed, relay_count)
    cuts.run(3.0)
    for _ in range(faults):
        cuts.cut(draw.sample(range(relay_count), min(2, relay_count - 1)), draw.uniform(0.1, 0.7))
        cuts.run(draw.uniform(0.3, 0.6))
    cuts.is_publishing = False
    cuts.run(8.0)
    return cuts


def run_cuts_and_kills(seed: int, relay_count: int, faults: int) -> Cuts:
    """Cut off one relay or, as when Redis is away, all of them, or kill one, again and again; then wait until everything is
    persisted."""
    draw = random.Random(seed)
    cuts = Cuts(seed, relay_count)
    cuts.run(3.0)
    for _ in range(faults):
        which = draw.randrange(relay_count)
        match draw.choices(("cut", "redis", "kill"), (6, 2, 1))[0]:
            case "cut":
                cuts.cut([which], draw.uniform(0.1, 0.7))
            case "redis":
                cuts.cut(list(range(relay_count)), draw.uniform(0.1, 0.7))
                cuts.run(1.0)
            case "kill":
                cuts.kill(which)
        cuts.run(draw.uniform(0.3, 0.6))
    cuts.is_publishing = False
    cuts.run(12.0)
    return cuts
