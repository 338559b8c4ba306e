"""What happens to a job, in an order that its queue may bring about."""

from relay_client.integrations.job import Job
from relay_client.integrations.job_reporter import JobReporter

from tests.harness import RedisServer
from tests.integration.client.reading import state_of


def test_the_next_attempt_begins_here_before_the_last_one_says_that_it_failed(redis_server: RedisServer) -> None:
    jobs = JobReporter({"publisher": redis_server.url})
    first, second = Job("t", "name"), Job("t", "name", attempt=2)
    jobs.started(first, watched=False)
    jobs.started(second, watched=False)
    jobs.retrying(first, ConnectionError("try again"), 0.2)
    assert jobs.job("t") == second
    jobs.flush()
    assert state_of(redis_server, "t")["status"] == "in_progress"
    jobs.succeeded("t")
    jobs.leave()
    jobs.flush()
    state = state_of(redis_server, "t")
    assert (state["status"], state["attempt"], state["message"]) == ("completed", 2, None)
    assert jobs.reporter.waiting == 0


def test_an_error_in_the_reporting_does_not_reach_the_queue(redis_server: RedisServer) -> None:
    jobs = JobReporter({"publisher": redis_server.url})
    broken = Job("x" * 300, "name")  # too long for a task's id
    assert not jobs.enqueued(broken)
    jobs.started(broken)
    jobs.progress(broken.id, 40)
    jobs.failed(broken.id, ValueError("broken"))
    assert jobs.reporter.dropped == 3
