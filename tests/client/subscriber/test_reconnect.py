"""When a subscriber reconnects, and when it gives up."""

import math

import pytest
from relay_client.backoff import full_jitter
from relay_client.subscriber import RelayRefused, RelayUnreachable
from relay_client.subscriber.heartbeat import Health, Heartbeat
from relay_client.subscriber.reconnect import FINAL_CLOSE_CODES, GOOD_SECONDS, MAX_RETRY_AFTER, Disconnect, Reconnect

from relay.core.closecodes import Close


def test_final_codes_are_those_of_the_registry() -> None:
    """Those of the Centrifuge protocol, from 3000 to 3999, reach its clients only."""
    assert {close.code for close in Close if not (close.reconnect or 3000 <= close.code < 4000)} == FINAL_CLOSE_CODES


def test_delays_are_uniform_up_to_a_bound_that_doubles() -> None:
    assert [full_jitter(attempt, 0.5, 20.0, lambda: 1.0) for attempt in (0, 1, 2, 5, 6, 10_000)] == [
        0.5,
        1.0,
        2.0,
        16.0,
        20.0,
        20.0,
    ]
    assert full_jitter(6, 0.5, 20.0, lambda: 0.0) == 0.0


def reconnect(give_up_after: float = math.inf) -> Reconnect:
    return Reconnect(1.0, 8.0, give_up_after, 0.0, lambda: 1.0)


def test_only_a_good_connection_resets_the_delay() -> None:
    one = reconnect()
    delays = [one.delay_after(Disconnect("broke", lasted), 0.0) for lasted in (None, 0.0, 1.0, GOOD_SECONDS, None)]
    assert delays == [1.0, 2.0, 4.0, 1.0, 2.0]


def test_what_a_server_asks_for_comes_before_the_delay_of_its_own() -> None:
    one = reconnect()
    assert one.delay_after(Disconnect("refused", status=429, retry_after=5.0), 0.0) == 5.0 + 1.0
    assert one.delay_after(Disconnect("refused", status=503, retry_after=1e9), 0.0) == MAX_RETRY_AFTER + 2.0
    assert reconnect(3.0).delay_after(Disconnect("refused", status=429, retry_after=5.0), 0.0) == 3.0, (
        "but it gives up then"
    )


def test_only_the_final_codes_of_the_table_keep_a_client_away() -> None:
    """Every other code is sent by a relay that expects it back, or by a proxy."""
    for code in range(1000, 5000):
        disconnect = Disconnect("closed", 1.0, code)
        if code in FINAL_CLOSE_CODES:
            with pytest.raises(RelayRefused) as refused:
                reconnect().delay_after(disconnect, 0.0)
            assert refused.value.code == code
        else:
            assert reconnect().delay_after(disconnect, 0.0) == 1.0


def test_a_wrong_url_is_refused_unless_it_has_worked_before() -> None:
    for disconnect in (Disconnect("not found", status=404), Disconnect("certificate", certificate_invalid=True)):
        with pytest.raises(RelayRefused):
            reconnect().delay_after(disconnect, 0.0)
        one = reconnect()
        one.delay_after(Disconnect("broke", 1.0), 0.0)
        assert one.delay_after(disconnect, 0.0) == 2.0
    for status in (403, 429, 500, 503):  # a relay that drains says 403
        assert reconnect().delay_after(Disconnect("refused", status=status), 0.0) == 1.0


def test_it_gives_up_after_so_long_without_a_connection() -> None:
    one = reconnect(give_up_after=10.0)
    assert one.delay_after(Disconnect("broke", 1.0), 100.0) == 1.0
    assert one.delay_after(Disconnect("no"), 109.5) == 0.5, "the last try comes when the time is up"
    with pytest.raises(RelayUnreachable, match="10 s"):
        one.delay_after(Disconnect("no"), 110.0)


# Silence.


def test_a_silent_relay_is_sent_one_ping_and_then_given_up() -> None:
    one = Heartbeat(10.0, 5.0, now=100.0)
    assert (one.check(109.0), one.next_check) == (Health.GOOD, 110.0)
    assert one.check(110.5) is Health.PING_DUE
    assert (one.check(115.0), one.next_check) == (Health.GOOD, 115.5)
    assert one.check(115.5) is Health.LOST


def test_any_byte_counts_as_an_answer() -> None:
    one = Heartbeat(10.0, 5.0, now=100.0)
    assert one.check(110.0) is Health.PING_DUE
    one.received(114.0)
    assert (one.check(115.0), one.next_check) == (Health.GOOD, 124.0)
    assert one.check(124.0) is Health.PING_DUE


def test_silence_means_nothing_while_the_connection_is_not_read() -> None:
    one = Heartbeat(10.0, 5.0, now=100.0)
    one.pause()
    assert (one.check(1000.0), one.next_check) == (Health.GOOD, math.inf)
    one.resume(1000.0)
    assert (one.check(1009.0), one.next_check) == (Health.GOOD, 1010.0)
