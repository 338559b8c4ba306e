"""The line by itself: order, bounds, what is tried again and what is not, without a clock and without Redis."""

from collections.abc import Sequence
from typing import Any

import pytest
import redis.exceptions as errors
from hypothesis import given, settings
from hypothesis import strategies as st
from relay_client import BufferFull, DeliveryRefused, DeliveryTimedOut, NotDelivered, PublisherClosed
from relay_client.delivery.call import Call
from relay_client.delivery.exchange import Exchange
from relay_client.delivery.line import Bounds, Line, backoff, is_passing
from relay_wire.scripts import Script

SCRIPT = Script("return 1", "digest")


def call(name: str = "a", **options: Any) -> Call:
    return Call(name, ["key"], SCRIPT, [name], **options)


def line_with(*calls: Call, **bounds: Any) -> Line:
    line = Line(Bounds(**bounds))
    line.put(calls, 0.0)
    return line


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (errors.ConnectionError("gone"), True),
        (errors.TimeoutError("late"), True),
        (errors.BusyLoadingError("LOADING"), True),
        (errors.ReadOnlyError("replica"), True),
        (errors.MasterDownError("down"), True),
        (errors.ClusterDownError("down"), True),
        (errors.TryAgainError("moving"), True),
        (errors.MovedError("1 127.0.0.1:7000"), True),
        (errors.RedisClusterException("no node"), True),
        (errors.ResponseError("BUSY Redis is busy running a script."), True),
        (errors.ResponseError("NOREPLICAS Not enough good replicas to write."), True),
        (errors.ResponseError("Script attempted to access a non local key in a cluster node script: ..."), True),
        (ConnectionRefusedError("no"), True),
        (errors.AuthenticationError("WRONGPASS"), False),
        (errors.NoPermissionError("NOPERM"), False),
        (errors.ResponseError("unknown command"), False),
        (errors.OutOfMemoryError("OOM"), False),
    ],
)
def test_what_is_worth_another_try(error: Exception, passes: bool) -> None:
    assert is_passing(error) is passes


def test_the_first_retry_is_at_once_and_later_ones_are_spread_up_to_a_second() -> None:
    assert backoff(0) == 0.0
    assert all(0.0 <= backoff(attempt) <= 1.0 for attempt in range(1000))
    assert max(backoff(30) for _ in range(200)) > 0.5


def test_what_is_tried_again_keeps_its_place() -> None:
    first, second, third = call("1"), call("2"), call("3")
    line = line_with(first, second)
    batch = line.take(0.0)
    assert batch == [first, second]
    line.put([third], 0.1)
    line.failed(batch, errors.ConnectionError("gone"), 0.1, was_sent=True)
    assert line.pause(0.1) == 0.0
    batch = line.take(0.1)
    assert batch == [first, second, third]
    line.failed(batch, errors.ConnectionError("still gone"), 0.1, was_sent=True)
    assert 0.0 <= line.pause(0.1) <= 0.1
    line.answered(batch, [1, 2, 3], 0.5)
    assert [each.outcome() for each in (first, second, third)] == [1, 2, 3]
    assert line.waiting == 0
    assert line.take(0.5) == []


def test_an_error_that_would_come_again_is_its_own_calls_alone() -> None:
    good, bad = call("good"), call("bad")
    line = line_with(bad, good)
    line.answered(line.take(0.0), [errors.NoPermissionError("no"), 7], 0.0)
    with pytest.raises(DeliveryRefused, match="no") as caught:
        bad.outcome()
    assert caught.value.channel == "bad"
    assert isinstance(caught.value.__cause__, errors.NoPermissionError)
    assert good.outcome() == 7


def test_a_wrong_password_is_told_at_once() -> None:
    one = call()
    line = line_with(one)
    line.failed(line.take(0.0), errors.AuthenticationError("WRONGPASS"), 0.0, was_sent=False)
    with pytest.raises(DeliveryRefused, match="WRONGPASS"):
        one.outcome()


def test_a_transaction_with_a_refused_part_goes_again_without_it() -> None:
    good, bad = call("good"), call("bad")
    line = line_with(good, bad)
    batch = line.take(0.0)
    aborted = errors.ExecAbortError("aborted")
    raw = [b"OK", b"QUEUED", errors.NoPermissionError("no"), aborted]
    line.answered(batch, Exchange(line, batch, 1).answers(raw), 0.0)
    with pytest.raises(DeliveryRefused):
        bad.outcome()
    assert line.pause(0.0) == 0.0
    assert line.take(0.0) == [good]


def test_an_unknown_script_is_spelled_out_once() -> None:
    one, two = call("1"), call("2")
    line = line_with(one, two)
    batch = line.take(0.0)
    assert [words[0] for words in line.commands(batch)] == ["EVALSHA", "EVALSHA"]
    line.answered(batch, [errors.NoScriptError(), errors.NoScriptError()], 0.0)
    assert line.pause(0.0) == 0.0
    batch = line.take(0.0)
    assert [words[:2] for words in line.commands(batch)] == [("EVAL", "return 1"), ("EVALSHA", "digest")]
    assert [words[0] for words in line.commands(batch)] == ["EVALSHA", "EVALSHA"]


def test_without_memory_the_fallback_goes_in_its_place() -> None:
    one = call(fallback=("PUBLISH", "feed", b"live"))
    line = line_with(one)
    line.answered(line.take(0.0), [errors.OutOfMemoryError("OOM")], 0.0)
    batch = line.take(0.0)
    assert line.commands(batch) == [("PUBLISH", "feed", b"live")]
    line.answered(batch, [3], 0.0)
    assert one.outcome() is None


def test_a_lost_answer_is_asked_for_again_only_where_that_does_no_harm() -> None:
    scripted, plain = call("scripted"), Call("plain", ["x"], command=("PUBLISH", "x", b"1"), repeatable=False)
    line = line_with(scripted, plain)
    batch = line.take(0.0)
    line.failed(batch, errors.ConnectionError("refused"), 0.0, was_sent=False)
    assert line.take(1.0) == batch
    line.failed(batch, errors.BusyLoadingError("LOADING"), 1.0, was_sent=True)
    assert line.take(3.0) == batch
    line.failed(batch, errors.ConnectionError("reset"), 3.0, was_sent=True)
    assert line.take(9.0) == [scripted]
    with pytest.raises(NotDelivered, match="not sent again") as caught:
        plain.outcome()
    assert caught.value.may_have_arrived


def test_the_deadline_is_an_error_with_its_reason() -> None:
    one = call("one")
    line = line_with(one, deadline=5.0)
    line.failed(line.take(0.0), errors.ConnectionError("nobody there"), 0.0, was_sent=False)
    assert line.take(4.9) == [one]
    assert line.take(5.0) == []
    with pytest.raises(DeliveryTimedOut, match=r"5 s.*nobody there") as caught:
        one.outcome()
    assert not caught.value.may_have_arrived


def test_a_new_call_is_tried_at_once_whatever_was_before() -> None:
    one, two = call("one"), call("two")
    line = line_with(one, deadline=5.0)
    for _ in range(10):
        line.failed(line.take(0.0), errors.ConnectionError("nobody there"), 0.0, was_sent=False)
    line.expire(5.0)
    line.put([two], 5.0)
    assert line.pause(5.0) == 0.0
    assert line.take(5.0) == [two]


def test_replicas_that_are_missing_are_waited_for() -> None:
    one = call(waits=True)
    line = line_with(one, wait_replicas=2, timeout=1.0)
    batch = line.take(0.0)
    exchange = Exchange(line, batch, 1000)
    assert exchange.commands()[1:] == [("WAIT", 2, 500)]
    line.answered(batch, exchange.answers([7, 1]), 0.0)
    assert not one.is_settled
    batch = line.take(9.0)
    exchange = Exchange(line, batch, 1000)
    # It may have been written over another connection: WAIT is about this one's writes.
    assert exchange.commands()[1:] == [("PEXPIRE", "key", 1000), ("WAIT", 2, 500)]
    line.answered(batch, exchange.answers([7, 1, 2]), 9.0)
    assert one.outcome() == 7


def test_bounds_in_number_and_bytes_take_all_or_none() -> None:
    line = line_with(call(), call(), max_waiting=3)
    with pytest.raises(BufferFull, match="2 updates"):
        line.put([call(), call()], 0.0)
    line.put([call()], 0.0)
    line.answered(line.take(0.0), [1, 1, 1], 0.0)
    line.put([call(), call(), call()], 0.0)
    heavy = Line(Bounds(max_waiting_bytes=1000))
    heavy.put([Call("a", ["k"], command=("x", b"x" * 500))], 0.0)
    with pytest.raises(BufferFull):
        heavy.put([Call("a", ["k"], command=("x", b"x" * 500))], 0.0)


def test_a_batch_is_bounded() -> None:
    line = Line(Bounds(max_waiting=10_000))
    line.put([call(str(number)) for number in range(1000)], 0.0)
    assert len(line.take(0.0)) == 128
    one_at_a_time = Line(Bounds(), 1)
    one_at_a_time.put([call(), call()], 0.0)
    assert len(one_at_a_time.take(0.0)) == 1


def test_closed_takes_no_more_and_finishes_what_waits() -> None:
    one = call()
    line = line_with(one)
    line.close()
    with pytest.raises(PublisherClosed):
        line.put([call()], 0.0)
    assert line.take(0.0) == [one]


def test_lost_posts_are_kept_for_the_flush_up_to_a_bound() -> None:
    line = Line(Bounds(max_waiting=1000, deadline=1.0, timeout=1.0))
    line.put([call(str(number)) for number in range(300)], 0.0, posted=True)
    line.expire(1.0)
    lost, count = line.take_lost()
    assert (len(lost), count) == (100, 300)
    assert line.take_lost() == ([], 0)


@pytest.mark.parametrize(
    "wrong",
    [{"deadline": 0}, {"deadline": 151}, {"timeout": 0}, {"timeout": 20}, {"max_waiting": 0}, {"wait_replicas": -1}],
)
def test_bounds_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Bounds(**wrong)


#: What may happen to a line, with how much of its batch Redis carries out before it breaks off.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 4)),
        st.tuples(st.just("answer"), st.just(0)),
        st.tuples(st.just("break"), st.integers(0, 8)),
        st.tuples(st.just("readonly"), st.just(0)),
        st.tuples(st.just("forget"), st.just(0)),
        st.tuples(st.just("abandon"), st.integers(0, 8)),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_whatever_happens_each_is_carried_out_once_and_in_order(steps: Sequence[tuple[str, int]]) -> None:
    line = Line(Bounds(max_waiting=1000))
    put: list[Call] = []
    carried_out: list[Call] = []
    abandoned: set[Call] = set()
    now = 0.0

    def carry_out(batch: Sequence[Call]) -> None:
        carried_out.extend(each for each in batch if each not in carried_out)  # Redis recognises what comes again

    for action, number in [*steps, ("answer", 0)]:
        now += 0.001
        if action == "put":
            some = [call() for _ in range(number)]
            line.put(some, now)
            put += some
            continue
        batch = line.take(now)
        line.commands(batch)
        match action:
            case "answer":
                carry_out(batch)
                line.answered(batch, [1] * len(batch), now)
            case "break":
                carry_out(batch[:number])
                line.failed(batch, errors.ConnectionError("broken"), now, was_sent=True)
            case "readonly":
                line.answered(batch, [errors.ReadOnlyError("replica")] * len(batch), now)
            case "forget":
                line.answered(batch, [errors.NoScriptError()] * len(batch), now)
            case "abandon":
                some = batch[number : number + 1]
                line.abandon(some)
                abandoned.update(some)
    assert line.waiting == 0
    assert carried_out == [each for each in put if each in carried_out]
    assert {each for each in put if each not in carried_out} <= abandoned
    assert all(each.outcome() == 1 for each in put if each not in abandoned)
