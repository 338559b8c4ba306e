"""A reporter that logs errors: the work goes on while Redis is away, and what it was is known when Redis is back."""

import logging
import threading
from typing import Any

import pytest
import relay_client

from tests.harness import RedisServer, eventually
from tests.integration.client.flavours import Flavour, reporter
from tests.integration.client.reading import log_of, state_of


def test_an_end_is_tried_until_redis_is_back(flavour: Flavour, redis_server: RedisServer) -> None:
    """Much longer than the publisher's deadline."""
    thawing = threading.Timer(1.5, redis_server.thaw)
    with reporter(flavour, redis_server.url, within=0.3) as report, report("t", title="A") as task:
        task.progress(40)
        redis_server.freeze()
        thawing.start()
        task.progress(90)
    thawing.join()
    state = state_of(redis_server, "t")
    assert (state["status"], state["progress"], state["title"]) == ("completed", 100, "A")


def test_a_beginning_that_redis_does_not_take_is_sent_later(flavour: Flavour, redis_server: RedisServer) -> None:
    redis_server.kill()
    with reporter(flavour, redis_server.url, within=0.3) as report, report("t", title="A") as task:
        task.progress(40)
        redis_server.start()
        eventually(lambda: state_of(redis_server, "t").get("progress") == 40)
        state = state_of(redis_server, "t")
        assert (state["status"], state["title"]) == ("in_progress", "A")
        announced: list[Any] = [data for _, _, data in log_of(redis_server, "general")]
        assert [data["task_info"]["task_id"] for data in announced] == ["t"]
    assert state_of(redis_server, "t")["status"] == "completed"
    assert len(log_of(redis_server, "general")) == 1


def test_what_is_lost_is_logged_and_breaks_nothing(
    flavour: Flavour, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.kill()
    with caplog.at_level(logging.ERROR, "relay_client"):
        with reporter(flavour, redis_server.url, within=0.2, end_timeout=0.3) as report, report("t") as task:
            task.progress(1)
        assert "task t: its end was not delivered" in caplog.text


def test_a_redis_that_refuses_breaks_nothing(redis_server: RedisServer) -> None:
    with redis_server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "+@all", "-evalsha", "-eval", "~*", "&*")
    host = redis_server.url.removeprefix("redis://")
    with relay_client.TaskReporter(f"redis://reader:pw@{host}") as report, report("t") as task:
        task.progress(1)


def test_a_full_buffer_delays_the_end_and_does_not_lose_it(redis_server: RedisServer) -> None:
    with relay_client.Publisher(redis_server.url, max_waiting=4, timeout=1.0, deadline=5.0) as publisher:
        with relay_client.TaskReporter(publisher) as report, report("t"):
            redis_server.freeze()
            for number in range(4):
                publisher.post_task_update("other", {"n": number})
            thawing = threading.Timer(0.5, redis_server.thaw)
            thawing.start()
        thawing.join()
    assert state_of(redis_server, "t")["status"] == "completed"
