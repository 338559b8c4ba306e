"""Plain messages are persisted in the order in which they were published, whichever relays received them.

The machine below is Redis and some relays, without I/O. Redis hands each message to the connections that it has, each of which
brings its messages in order, whenever it likes. Connections break in any state, and with them the calls to Redis, and are made
again. Time passes only so far that no relay gives up waiting for another one.
"""

from math import inf

from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from relay.core.plain_agreement import MAX_REORDER_WINDOW, REORDER_WINDOW, Announce, CountPeers, OrderState, Wait
from relay.core.plain_order import Outcome, Persist, PlainOrder, ReadClock
from relay.core.plain_queue import BarrierRequest
from tests.core.plain_messages import by_promise, counted, requests, update


class Relay:
    """One relay's part, and its connections: messages that Redis has sent on one and that have not arrived."""

    def __init__(self, name: str, clock_ahead: float) -> None:
        made = requests(name)
        self.name = name.encode()
        self.order = PlainOrder(self.name, lambda: next(made))
        self.clock_ahead = clock_ahead
        self.is_connected = False
        self.wire: list[int | bytes] = []
        self.persisting: Persist | None = None
        self.has_seen: set[bytes] = set()

    @property
    def gives_up_at(self) -> float:
        """When it lets pass what another relay has not confirmed; on everybody's clock."""
        held = self.order._agreement.first_held
        return inf if held is None or held.is_confirmed else held.since + MAX_REORDER_WINDOW - self.clock_ahead

    @property
    def unpersisted(self) -> set[int]:
        segments = [item for item in self.order._queue._items if not isinstance(item, BarrierRequest)]
        queued = [each for segment in segments for waiting in segment.values() for each in waiting]
        return {int(each.update.data) for each in (*queued, *(self.persisting.batch if self.persisting else ()))}


class Agreement(RuleBasedStateMachine):
    """Redis, and relays that receive plain messages and persist them."""

    names = "abc"

    def __init__(self) -> None:
        super().__init__()
        self.relays = [Relay(name, 1000.0 * place) for place, name in enumerate(self.names)]
        self.published: list[int] = []  # those that a relay receives
        self.log: list[int] = []
        self.now = 100.0
        #: A relay waited for another one in vain, or could not know that it has to.
        self.has_given_up = False

    def relay(self, index: int) -> Relay:
        return self.relays[index % len(self.relays)]

    def publish_to_all(self, message: int | bytes) -> bool:
        connected = [relay for relay in self.relays if relay.is_connected]
        for relay in connected:
            relay.wire.append(message)
        return bool(connected)

    @rule(index=st.integers(0, 2))
    def connect(self, index: int) -> None:
        relay = self.relay(index)
        if not relay.is_connected:
            relay.order.on_connecting(self.now + relay.clock_ahead)
            self.now += 0.001
            relay.is_connected = True

    @rule(index=st.integers(0, 2))
    def disconnect(self, index: int) -> None:
        """What was sent on the connection is lost with it, if another relay receives it as well."""
        relay = self.relay(index)
        others = [other for other in self.relays if other is not relay]
        elsewhere = {item for other in others for item in (*other.wire, *other.unpersisted)}.union(self.log)
        if all(isinstance(item, bytes) or item in elsewhere | relay.unpersisted for item in relay.wire):
            relay.is_connected = False
            relay.wire = []

    @rule(count=st.integers(1, 3))
    def publish(self, count: int) -> None:
        for _ in range(count):
            number = len(self.published)
            if self.publish_to_all(number):
                self.published.append(number)
            self.now += 0.001

    @rule(index=st.integers(0, 2), count=st.integers(1, 5))
    def receive(self, index: int, count: int) -> None:
        relay = self.relay(index)
        for _ in range(min(count, len(relay.wire))):
            item = relay.wire.pop(0)
            if isinstance(item, bytes):
                relay.has_seen.update(other.name for other in self.relays if other.name in item.split(b" ")[1:])
                relay.order.on_barrier_message(item, self.now + relay.clock_ahead)
            else:
                assert relay.order.on_received(update(item, self.now + relay.clock_ahead), counted(item))

    @rule(index=st.integers(0, 2))
    def carry_on_barrier(self, index: int) -> None:
        self.do_barrier(self.relay(index))

    def do_barrier(self, relay: Relay) -> bool:
        now = self.now + relay.clock_ahead
        effect = relay.order.next_barrier(now)
        if isinstance(effect, Announce):
            if relay.is_connected:
                self.publish_to_all(effect.message)
            relay.order.on_asked(now, is_refused=False)
        elif isinstance(effect, CountPeers):
            before = relay.gives_up_at
            count = sum(each.is_connected for each in self.relays) if relay.is_connected else None
            relay.order.on_peer_count(count, now)
            if relay.gives_up_at != before:
                # Nobody waits for one that it never had a message from, and that is away.
                self.has_given_up |= any(
                    other.unpersisted and not other.is_connected and other.name not in relay.has_seen
                    for other in self.relays
                    if other is not relay
                )
        return not isinstance(effect, Wait)

    @rule(index=st.integers(0, 2))
    def begin_persisting(self, index: int) -> None:
        self.do_persist(self.relay(index))

    def do_persist(self, relay: Relay) -> bool:
        if relay.persisting is not None:
            return False
        now = self.now + relay.clock_ahead
        effect = relay.order.next_persist(now)
        if isinstance(effect, Persist):
            relay.persisting = effect
        elif isinstance(effect, ReadClock):
            if relay.is_connected:
                self.now += 0.001
                relay.order.on_clock(now, now + 0.001, int(self.now * 1000))
            else:
                relay.order.on_no_clock(now)
        elif isinstance(effect, Announce) and relay.is_connected:
            self.publish_to_all(effect.message)
        return not isinstance(effect, Wait)

    @precondition(lambda self: any(relay.persisting for relay in self.relays))
    @rule(index=st.integers(0, 2), is_away=st.booleans())
    def end_persisting(self, index: int, is_away: bool) -> None:
        """Calls may fail on a connection of their own; without any, they do."""
        relay = self.relay(index)
        self.do_end_persisting(relay, is_away=is_away or not relay.is_connected)

    def do_end_persisting(self, relay: Relay, *, is_away: bool) -> None:
        if relay.persisting is None:
            return
        batch, relay.persisting = relay.persisting.batch, None
        outcome = Outcome.UNAVAILABLE if is_away else Outcome.PERSISTED
        if not is_away:
            for pending in batch:
                number = int(pending.update.data)
                if number not in self.log:
                    self.log.append(number)
        outcomes = [(each, outcome) for each in batch]
        assert relay.order.on_outcomes(outcomes, self.now + relay.clock_ahead, 0.01) == []

    @rule(seconds=st.sampled_from([0.01, 0.1, REORDER_WINDOW]))
    def pass_time(self, seconds: float) -> None:
        """Not so long that a relay goes on without an answer."""
        self.do_pass_time(seconds)

    def do_pass_time(self, seconds: float) -> None:
        if self.now + seconds < min(relay.gives_up_at for relay in self.relays) - 0.1:
            self.now += seconds

    @rule(index=st.integers(0, 2))
    def carry_on(self, index: int) -> None:
        """One relay does what it can now."""
        relay = self.relay(index)
        for _ in range(20):
            self.receive(index, len(relay.wire))
            is_busy = self.do_barrier(relay)
            is_busy |= self.do_persist(relay)
            if relay.is_connected:
                self.do_end_persisting(relay, is_away=False)
            if not (is_busy or relay.wire):
                break

    @rule()
    def calm(self) -> None:
        """Everything that is under way comes to its end."""
        for index in range(len(self.relays)):
            self.connect(index)
        for _ in range(2000):
            is_busy = False
            for index, relay in enumerate(self.relays):
                is_busy |= bool(relay.wire)
                self.receive(index, len(relay.wire))
                is_busy |= self.do_barrier(relay)
                is_busy |= self.do_persist(relay)
                self.do_end_persisting(relay, is_away=False)
            self.now += 0.005
            if self.now >= min(relay.gives_up_at for relay in self.relays):
                event("gave up")
                self.has_given_up = True
            states = {relay.order.state for relay in self.relays}
            if not is_busy and states == {OrderState.FLOWING}:
                break
        assert states == {OrderState.FLOWING}
        assert sorted(self.log) == self.published
        if self.has_given_up:
            self.log.sort()
            self.has_given_up = False
        assert by_promise(self.log) == by_promise(self.published)

    def teardown(self) -> None:
        self.calm()


class AgreementOfTwo(Agreement):
    """Two of them: orders of events that are as long come further."""

    names = "ab"


TestAgreement = Agreement.TestCase
TestAgreementOfTwo = AgreementOfTwo.TestCase
TestAgreement.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestAgreementOfTwo.settings = TestAgreement.settings
