"""The status for operators: rates, who publishes what is malformed, and how the reports of several relays become one."""

from typing import Any

import msgspec
import pytest

from relay.core.batches import Batch
from relay.core.malformed_publishes import MalformedPublishes
from relay.core.rates import RateWindow
from relay.core.send_queue import QueueLimits, QueueReport, SendQueue
from relay.core.status import (
    MAX_MALFORMED,
    MAX_SLOWEST,
    Connections,
    Malformed,
    Relay,
    SlowClient,
    malformed_of,
    slowest_of,
    totals_of,
)

NOTHING: dict[str, Any] = {
    "id": "i",
    "name": "host_1",
    "version": "1",
    "status": "ready",
    "uptime": 1.0,
    **dict.fromkeys(("clients", "users", "subscriptions", "channels", "waiting_clients", "waiting_messages"), 0),
    **dict.fromkeys(("updates_per_second", "plain_per_second", "deliveries_per_second", "coalesced_per_second"), 0.0),
    **dict.fromkeys(("delivery_lag", "event_loop_lag"), 0.0),
    "connections": [],
    "dropped": {},
    "stalls": 0,
    "redis_connected": True,
    "redis_reconnects": 0,
    "slowest": [],
    "malformed": [],
}


def relay(**values: Any) -> Relay:
    return Relay(**(NOTHING | values))


def slow(client: str = "10.0.0.1:1", limit_used: float = 0.5, age: float = 1.0) -> SlowClient:
    return SlowClient(client, "/ws/tasks", "hijacked", 1, 100, age, limit_used)


def malformed(count: int, seconds_ago: float, client: str | None = None, code: str = "not_json") -> Malformed:
    return Malformed("source", client, code, count, seconds_ago, "wrong", f"example of {count}")


def test_rates_are_those_of_the_window() -> None:
    window = RateWindow(3)
    assert window.rates(2) == [0.0, 0.0]
    window.add(10.0, (0, 5))
    assert window.rates(2) == [0.0, 0.0]
    for second in range(1, 6):
        window.add(10.0 + second, (100 * second, 5))
    assert window.rates(2) == [100.0, 0.0]
    window.add(16.0, (500, 5))
    assert window.rates(2) == [50.0, 0.0], "of the last two seconds"


def test_malformed_publishes_are_counted_by_source_and_reason() -> None:
    publishes = MalformedPublishes()
    publishes.record(1.0, "PUBLISH a", "not_json", "first", b"{")
    publishes.record(2.0, "PUBLISH a", "too_big", "second", b"x" * 1000)
    publishes.record(3.0, "PUBLISH a", "not_json", "third", b"\x1b[31m\xff{")
    latest, other = publishes.report(5.0)
    assert latest == Malformed("PUBLISH a", None, "not_json", 2, 2.0, "third", "\ufffd[31m\ufffd{")
    assert (other.count, other.seconds_ago, len(other.example or "")) == (1, 3.0, 120)
    publishes.record(6.0, "HTTP API", "not_json", "fourth", client="10.0.0.1")
    assert publishes.report(6.0)[0] == Malformed("HTTP API", "10.0.0.1", "not_json", 1, 0.0, "fourth", None)


def test_malformed_publishes_are_limited_in_number() -> None:
    publishes = MalformedPublishes()
    for number in range(2 * MAX_MALFORMED):
        publishes.record(float(number), f"PUBLISH {number}", "not_json", "")
        publishes.record(float(number), "PUBLISH always", "not_json", "")
    report = publishes.report(100.0)
    assert len(report) == MAX_MALFORMED
    assert (report[0].source, report[0].count) == ("PUBLISH always", 2 * MAX_MALFORMED)
    assert report[-1].source == f"PUBLISH {MAX_MALFORMED + 1}"


def test_a_queue_says_how_near_its_client_is_to_being_dropped() -> None:
    queue = SendQueue(QueueLimits(coalesce_after=1000, messages=10, size=100, age=8.0))
    assert queue.report(50.0) == QueueReport(0, 0, 0.0, 0.0)
    queue.push(Batch(b"x" * 10, 1, 10), 10.0)
    assert queue.report(10.0) == QueueReport(1, 10, 0.0, 0.1)
    queue.push(Batch(b"x" * 40, 2, 40), 12.0)
    queue.written = 5
    assert queue.report(12.0) == QueueReport(3, 45, 2.0, 0.5), "bytes"
    assert queue.report(16.0).limit_used == 0.75, "time without progress"
    queue.pop()
    queue.pop()
    queue.push(Batch(b"x", 9, 1), 20.0)
    assert queue.report(21.0) == QueueReport(9, 1, 1.0, 0.9), "messages"


def test_the_slowest_are_those_nearest_to_being_dropped() -> None:
    clients = [slow(str(number), number / 100) for number in range(90, 100)]
    found = slowest_of(
        [relay(name="a", slowest=clients), relay(name="b", slowest=[slow("b", 0.955), slow("c", 0.96, 2.0)])]
    )
    assert [(each.client, each.relay) for each in found] == [
        *((str(number), "a") for number in (99, 98, 97)),
        ("c", "b"),  # it has been behind for longer than
        ("96", "a"),
        ("b", "b"),
        *((str(number), "a") for number in (95, 94, 93, 92)),
    ]
    assert len(found) == MAX_SLOWEST


def test_what_is_added_up_and_what_is_not() -> None:
    one = relay(
        clients=3,
        updates_per_second=10.0,
        plain_per_second=5.0,
        delivery_lag=0.1,
        dropped={"slow_bytes": 2, "slow_age": 1},
        connections=[Connections("/ws/tasks", "hijacked", 2), Connections("/events", "asgi", 1)],
    )
    other = relay(
        clients=1, updates_per_second=1.0, plain_per_second=6.0, connections=[Connections("/events", "asgi", 1)]
    )
    totals = totals_of([one, other])
    assert (totals.clients, totals.updates_per_second, totals.plain_per_second) == (4, 11.0, 6.0)
    assert (totals.delivery_lag, totals.dropped) == (0.1, 3)
    assert totals.connections == [Connections("/events", "asgi", 2), Connections("/ws/tasks", "hijacked", 2)]
    assert totals_of([]).clients == 0


def test_a_plain_publish_that_all_relays_received_counts_once() -> None:
    relays = [
        relay(malformed=[malformed(3, 9.0), malformed(1, 2.0, client="10.0.0.1")]),
        relay(malformed=[malformed(7, 1.0), malformed(1, 5.0, client="10.0.0.1"), malformed(1, 0.5, code="too_big")]),
    ]
    assert [(each.client, each.code, each.count, each.seconds_ago) for each in malformed_of(relays)] == [
        (None, "too_big", 1, 0.5),
        (None, "not_json", 7, 1.0),
        ("10.0.0.1", "not_json", 2, 2.0),
    ]


@pytest.mark.parametrize("field", ["id", "slowest"])
def test_a_report_of_another_version_is_told_apart(field: str) -> None:
    report = msgspec.to_builtins(relay())
    assert msgspec.convert(report | {"later": 1}, Relay) == relay(), "a later one may say more"
    del report[field]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(report, Relay)
