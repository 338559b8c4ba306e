"""The queue by itself: order, bounds, what is tried again and what is not, without a clock and without Redis."""

from collections.abc import Sequence
from typing import Any

import pytest
import redis.exceptions as errors
from hypothesis import given, settings
from hypothesis import strategies as st
from relay_client import BufferFull, DeliveryRefused, DeliveryTimedOut, NotDelivered, PublisherClosed
from relay_client.publishing.call import Call
from relay_client.publishing.exchange import Exchange
from relay_client.publishing.queue import DeliveryLimits, DeliveryQueue, retry_delay
from relay_client.redis_errors import is_retryable
from relay_wire.scripts import Script

SCRIPT = Script("return 1", "digest")


def call(name: str = "a", **options: Any) -> Call:
    return Call(name, ["key"], SCRIPT, [name], **options)


def queue_with(*calls: Call, **limits: Any) -> DeliveryQueue:
    queue = DeliveryQueue(DeliveryLimits(**limits))
    queue.put(calls, 0.0)
    return queue


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
    assert is_retryable(error) is passes


def test_the_first_retry_is_at_once_and_later_ones_are_spread_up_to_a_second() -> None:
    assert retry_delay(0) == 0.0
    assert all(0.0 <= retry_delay(attempt) <= 1.0 for attempt in range(1000))
    assert max(retry_delay(30) for _ in range(200)) > 0.5


def test_what_is_tried_again_keeps_its_place() -> None:
    first, second, third = call("1"), call("2"), call("3")
    queue = queue_with(first, second)
    batch = queue.take(0.0)
    assert batch == [first, second]
    queue.put([third], 0.1)
    queue.failed(batch, errors.ConnectionError("gone"), 0.1, was_sent=True)
    assert queue.pause(0.1) == 0.0
    batch = queue.take(0.1)
    assert batch == [first, second, third]
    queue.failed(batch, errors.ConnectionError("still gone"), 0.1, was_sent=True)
    assert 0.0 <= queue.pause(0.1) <= 0.1
    queue.answered(batch, [1, 2, 3], 0.5)
    assert [each.outcome() for each in (first, second, third)] == [1, 2, 3]
    assert queue.waiting == 0
    assert queue.take(0.5) == []


def test_an_error_that_would_come_again_is_its_own_calls_alone() -> None:
    good, bad = call("good"), call("bad")
    queue = queue_with(bad, good)
    queue.answered(queue.take(0.0), [errors.NoPermissionError("no"), 7], 0.0)
    with pytest.raises(DeliveryRefused, match="no") as caught:
        bad.outcome()
    assert caught.value.channel == "bad"
    assert isinstance(caught.value.__cause__, errors.NoPermissionError)
    assert good.outcome() == 7


def test_a_wrong_password_is_told_at_once() -> None:
    one = call()
    queue = queue_with(one)
    queue.failed(queue.take(0.0), errors.AuthenticationError("WRONGPASS"), 0.0, was_sent=False)
    with pytest.raises(DeliveryRefused, match="WRONGPASS"):
        one.outcome()


def test_a_transaction_with_a_refused_part_goes_again_without_it() -> None:
    good, bad = call("good"), call("bad")
    queue = queue_with(good, bad)
    batch = queue.take(0.0)
    aborted = errors.ExecAbortError("aborted")
    raw = [b"OK", b"QUEUED", errors.NoPermissionError("no"), aborted]
    queue.answered(batch, Exchange(queue, batch, 1).answers(raw), 0.0)
    with pytest.raises(DeliveryRefused):
        bad.outcome()
    assert queue.pause(0.0) == 0.0
    assert queue.take(0.0) == [good]


def test_an_unknown_script_is_spelled_out_once() -> None:
    one, two = call("1"), call("2")
    queue = queue_with(one, two)
    batch = queue.take(0.0)
    assert [words[0] for words in queue.commands(batch)] == ["EVALSHA", "EVALSHA"]
    queue.answered(batch, [errors.NoScriptError(), errors.NoScriptError()], 0.0)
    assert queue.pause(0.0) == 0.0
    batch = queue.take(0.0)
    assert [words[:2] for words in queue.commands(batch)] == [("EVAL", "return 1"), ("EVALSHA", "digest")]
    assert [words[0] for words in queue.commands(batch)] == ["EVALSHA", "EVALSHA"]


def test_of_several_scripts_those_are_spelled_out_that_this_connection_has_not_run() -> None:
    """Else a call whose script the server knows would overtake another one whose script it does not."""
    other = Script("return 2", "other")
    batch = [call("1"), Call("2", ["key"], other), call("3"), Call("4", ["key"], other)]
    queue = queue_with(*batch)
    kinds = [words[:2] for words in queue.commands(batch)]
    assert kinds == [("EVAL", "return 1"), ("EVAL", "return 2"), ("EVALSHA", "digest"), ("EVALSHA", "other")]
    assert [words[0] for words in queue.commands(batch, {"digest"})] == ["EVALSHA", "EVAL", "EVALSHA", "EVALSHA"]
    assert {words[0] for words in queue.commands(batch, {"digest", "other"})} == {"EVALSHA"}


def test_what_must_not_come_late_does_not() -> None:
    """The server has forgotten one of two scripts, under a connection that has run both."""
    creation = Call("t", ["key"], Script("return 2", "other"), fallback=("EXISTS", "key"), fallback_if_overtaken=True)
    update = call("t")
    queue = queue_with(creation, update)
    queue.answered(queue.take(0.0), [errors.NoScriptError(), 1], 0.0)
    batch = queue.take(0.0)
    assert queue.commands(batch) == [("EXISTS", "key")]
    queue.answered(batch, [1], 0.0)
    assert (creation.outcome(), update.outcome()) == (None, 1)


def test_without_memory_the_fallback_goes_in_its_place() -> None:
    one = call(fallback=("PUBLISH", "feed", b"live"))
    queue = queue_with(one)
    queue.answered(queue.take(0.0), [errors.OutOfMemoryError("OOM")], 0.0)
    batch = queue.take(0.0)
    assert queue.commands(batch) == [("PUBLISH", "feed", b"live")]
    queue.answered(batch, [3], 0.0)
    assert one.outcome() is None


def test_a_lost_answer_is_asked_for_again_only_where_that_does_no_harm() -> None:
    scripted, plain = call("scripted"), Call("plain", ["x"], command=("PUBLISH", "x", b"1"), repeatable=False)
    queue = queue_with(scripted, plain)
    batch = queue.take(0.0)
    queue.failed(batch, errors.ConnectionError("refused"), 0.0, was_sent=False)
    assert queue.take(1.0) == batch
    queue.failed(batch, errors.BusyLoadingError("LOADING"), 1.0, was_sent=True)
    assert queue.take(3.0) == batch
    queue.failed(batch, errors.ConnectionError("reset"), 3.0, was_sent=True)
    assert queue.take(9.0) == [scripted]
    with pytest.raises(NotDelivered, match="not sent again") as caught:
        plain.outcome()
    assert caught.value.may_have_arrived


def test_the_deadline_is_an_error_with_its_reason() -> None:
    one = call("one")
    queue = queue_with(one, deadline=5.0)
    queue.failed(queue.take(0.0), errors.ConnectionError("nobody there"), 0.0, was_sent=False)
    assert queue.take(4.9) == [one]
    assert queue.take(5.0) == []
    with pytest.raises(DeliveryTimedOut, match=r"5 s.*nobody there") as caught:
        one.outcome()
    assert not caught.value.may_have_arrived


def test_a_new_call_is_tried_at_once_whatever_was_before() -> None:
    one, two = call("one"), call("two")
    queue = queue_with(one, deadline=5.0)
    for _ in range(10):
        queue.failed(queue.take(0.0), errors.ConnectionError("nobody there"), 0.0, was_sent=False)
    queue.expire(5.0)
    queue.put([two], 5.0)
    assert queue.pause(5.0) == 0.0
    assert queue.take(5.0) == [two]


def test_replicas_that_are_missing_are_waited_for() -> None:
    one = call(needs_replicas=True)
    queue = queue_with(one, wait_replicas=2, timeout=1.0)
    batch = queue.take(0.0)
    exchange = Exchange(queue, batch, 1000)
    assert exchange.commands()[1:] == [(b"WAIT", b"2", b"500")]
    queue.answered(batch, exchange.answers([7, 1]), 0.0)
    assert not one.is_settled
    batch = queue.take(9.0)
    exchange = Exchange(queue, batch, 1000)
    # It may have been written over another connection: WAIT is about this one's writes.
    assert exchange.commands()[1:] == [(b"PEXPIRE", b"key", b"1000"), (b"WAIT", b"2", b"500")]
    queue.answered(batch, exchange.answers([7, 1, 2]), 9.0)
    assert one.outcome() == 7


def test_bounds_in_number_and_bytes_take_all_or_none() -> None:
    queue = queue_with(call(), call(), max_waiting=3)
    with pytest.raises(BufferFull, match="2 updates"):
        queue.put([call(), call()], 0.0)
    queue.put([call()], 0.0)
    queue.answered(queue.take(0.0), [1, 1, 1], 0.0)
    queue.put([call(), call(), call()], 0.0)
    heavy = DeliveryQueue(DeliveryLimits(max_waiting_bytes=1000))
    heavy.put([Call("a", ["k"], command=("x", b"x" * 500))], 0.0)
    with pytest.raises(BufferFull):
        heavy.put([Call("a", ["k"], command=("x", b"x" * 500))], 0.0)


def test_a_batch_is_bounded() -> None:
    queue = DeliveryQueue(DeliveryLimits(max_waiting=10_000))
    queue.put([call(str(number)) for number in range(1000)], 0.0)
    assert len(queue.take(0.0)) == 128
    one_at_a_time = DeliveryQueue(DeliveryLimits(), 1)
    one_at_a_time.put([call(), call()], 0.0)
    assert len(one_at_a_time.take(0.0)) == 1


def test_closed_takes_no_more_and_finishes_what_waits() -> None:
    one = call()
    queue = queue_with(one)
    queue.close()
    with pytest.raises(PublisherClosed):
        queue.put([call()], 0.0)
    assert queue.take(0.0) == [one]


def test_lost_posts_are_kept_for_the_flush_up_to_a_bound() -> None:
    queue = DeliveryQueue(DeliveryLimits(max_waiting=1000, deadline=1.0, timeout=1.0))
    queue.put([call(str(number)) for number in range(300)], 0.0, posted=True)
    queue.expire(1.0)
    lost, count = queue.take_lost()
    assert (len(lost), count) == (100, 300)
    assert queue.take_lost() == ([], 0)


@pytest.mark.parametrize(
    "wrong",
    [{"deadline": 0}, {"deadline": 151}, {"timeout": 0}, {"timeout": 20}, {"max_waiting": 0}, {"wait_replicas": -1}],
)
def test_bounds_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DeliveryLimits(**wrong)


#: What may happen to a queue, with how much of its batch Redis carries out before it breaks off.
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
    queue = DeliveryQueue(DeliveryLimits(max_waiting=1000))
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
            queue.put(some, now)
            put += some
            continue
        batch = queue.take(now)
        queue.commands(batch)
        match action:
            case "answer":
                carry_out(batch)
                queue.answered(batch, [1] * len(batch), now)
            case "break":
                carry_out(batch[:number])
                queue.failed(batch, errors.ConnectionError("broken"), now, was_sent=True)
            case "readonly":
                queue.answered(batch, [errors.ReadOnlyError("replica")] * len(batch), now)
            case "forget":
                queue.answered(batch, [errors.NoScriptError()] * len(batch), now)
            case "abandon":
                some = batch[number : number + 1]
                queue.abandon(some)
                abandoned.update(some)
    assert queue.waiting == 0
    assert carried_out == [each for each in put if each in carried_out]
    assert {each for each in put if each not in carried_out} <= abandoned
    assert all(each.outcome() == 1 for each in put if each not in abandoned)
