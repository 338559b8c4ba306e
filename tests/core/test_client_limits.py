"""Limits by address and subject: exact in every order of events, and bounded in memory."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from relay.core.client_limits import BURST_SECONDS, ClientLimits, ClientShare, Limits, Usage, UsageTable

KEYS = st.sampled_from(["a", "b", "c", None])


class SharedLimits(RuleBasedStateMachine):
    """Clients connect, subscribe, change their subject and go; what is counted is what there is."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = ClientLimits(Limits(subscriptions=5, connect_rate=1.0), Limits(connections=3))
        self.by_subject = UsageTable(Limits(connections=3), max_idle=2)
        self.clients: dict[ClientShare, tuple[str | None, str | None, int]] = {}

    shares = Bundle("shares")

    @rule(target=shares, address=KEYS, subject=KEYS)
    def connect(self, address: str | None, subject: str | None) -> ClientShare:
        share = ClientShare()
        share.join(self.limits.by_address, address)
        share.join(self.by_subject, subject)
        self.clients[share] = address, subject, 0
        return share

    @rule(share=shares, subject=KEYS)
    def authenticate_again(self, share: ClientShare, subject: str | None) -> None:
        address, _, count = self.clients[share]
        share.join(self.by_subject, subject)
        self.clients[share] = address, subject, count

    @rule(share=shares, count=st.integers(0, 4))
    def subscribe(self, share: ClientShare, count: int) -> None:
        address, subject, before = self.clients[share]
        others = sum(each[2] for each in self.clients.values() if each[0] == address) - before
        assert share.has_room(count) == (count <= before or address is None or others + count <= 5)
        share.resize(count)
        self.clients[share] = address, subject, count

    @rule(share=consumes(shares))
    def leave(self, share: ClientShare) -> None:
        share.leave()
        share.leave()  # is harmless
        del self.clients[share]

    @rule(key=st.text(max_size=3))
    def attempt(self, key: str) -> None:
        for table in (self.limits.by_address, self.by_subject):
            usage = table.find(key)
            assert usage is not None
            usage.on_attempt(0.0)

    @invariant()
    def what_is_counted_is_what_there_is(self) -> None:
        for index, table in enumerate((self.limits.by_address, self.by_subject)):
            for key in ("a", "b", "c"):
                mine = [client for client in self.clients.values() if client[index] == key]
                usage = table.find(key)
                assert usage is not None
                assert usage.connections == len(mine)
                assert usage.subscriptions == sum(client[2] for client in mine)
        assert len(self.by_subject) <= len(self.clients) + 2


TestSharedLimits = SharedLimits.TestCase


def attempts(usage: Usage, now: float, count: int) -> int:
    """How many of so many attempts in one moment are let in."""
    allowed = 0
    for _ in range(count):
        if usage.retry_after(now) is None:
            usage.on_attempt(now)
            allowed += 1
    return allowed


def test_connects_are_limited_by_their_rate_and_one_that_insists_gets_it_all_the_same() -> None:
    usage = Usage(Limits(connect_rate=2.0))
    assert attempts(usage, 0.0, 1000) == 2 * BURST_SECONDS
    assert usage.retry_after(0.0) == pytest.approx(0.5)
    for second in range(1, 10):
        assert attempts(usage, float(second), 1000) == 2
    assert attempts(usage, 1000.0, 1000) == 2 * BURST_SECONDS


def test_a_slow_rate_lets_one_in() -> None:
    usage = Usage(Limits(connect_rate=0.01))
    assert attempts(usage, 0.0, 2) == 1
    assert usage.retry_after(50.0) == pytest.approx(50.0)
    assert usage.retry_after(100.0) is None


def test_a_key_without_limits_has_no_entry() -> None:
    table = UsageTable(Limits())
    assert table.find("a") is None
    share = ClientShare()
    share.join(table, "a")
    assert share.has_room(10**9)
    assert share.charge(0.0, 10**9) == 0
    assert len(table) == 0


def test_strangers_do_not_make_the_table_grow_and_do_not_push_out_those_in_use() -> None:
    table = UsageTable(Limits(connections=1), max_idle=10)
    share = ClientShare()
    share.join(table, "mine")
    for number in range(1000):
        table.find(f"stranger {number}")
    assert len(table) == 11
    usage = table.find("mine")
    assert usage is not None
    assert usage.retry_after(0.0) is not None


def test_what_a_key_owes_outlives_its_connections() -> None:
    table = UsageTable(Limits(connect_rate=1.0))
    usage = table.find("a")
    assert usage is not None
    assert attempts(usage, 0.0, 100) == 10
    share = ClientShare()
    share.join(table, "a")
    share.leave()
    again = table.find("a")
    assert again is not None
    assert again.retry_after(0.0) is not None


def test_messages_of_one_address_are_slowed_together() -> None:
    limits = ClientLimits(Limits(message_rate=10.0), Limits(message_rate=1000.0))
    first, second, other = ClientShare(), ClientShare(), ClientShare()
    for share, address in ((first, "a"), (second, "a"), (other, "b")):
        share.join(limits.by_address, address)
        share.join(limits.by_subject, "user")
    assert first.charge(0.0, 100) == 0
    assert second.charge(0.0, 50) == pytest.approx(5.0)
    assert other.charge(0.0, 50) == 0
    assert second.charge(20.0, 1) == 0


def test_a_request_over_the_rate_is_refused_and_costs_nothing() -> None:
    usage = Usage(Limits(message_rate=1.0))
    assert [usage.charge_request(0.0) for _ in range(11)] == [None] * 10 + [pytest.approx(1.0)]
    assert usage.charge_request(1.0) is None
    assert usage.charge_request(2.0, messages=5) is None  # it may come, and those after it wait for all of it
    assert usage.charge_request(3.0) == pytest.approx(4.0)
